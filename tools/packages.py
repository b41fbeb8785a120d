"""Finds the tools and the recipes. They are `tools` and `recipes` in a clone, and `siglip_tf.tools` and
`siglip_tf.recipes` in an installed wheel, which must not put such common names into site-packages."""

import ast
import importlib
import importlib.util
import pkgutil
from types import ModuleType

TOOLS = __package__
RECIPES = f"{TOOLS.removesuffix('tools')}recipes"
IS_CLONE = TOOLS == "tools"


def recipe_module(name: str) -> ModuleType:
    """Imports the module of the recipe called `name`, such as "siglip".

    Raises:
        ValueError: if there is no such recipe.
    """
    if name not in recipe_names():
        raise ValueError(f"Expected a recipe among {', '.join(recipe_names())}. Received: {name!r}.")
    return importlib.import_module(f"{RECIPES}.{name}")


def recipe_names() -> list[str]:
    """Returns the names of all recipes without importing them. A recipe is a module that defines `RECIPE`."""
    package = importlib.import_module(RECIPES)
    modules = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
    return [name for name in modules if "RECIPE" in _assigned_names(f"{RECIPES}.{name}")]


def summary_of(module: str) -> str:
    """Returns the first line of a module's docstring without importing the module."""
    return (ast.get_docstring(_tree_of(module)) or "").partition("\n")[0]


def _assigned_names(module: str) -> set[str]:
    assigned = [node for node in _tree_of(module).body if isinstance(node, ast.Assign)]
    return {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}


def _tree_of(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    with open(spec.origin, encoding="utf-8") as file:
        return ast.parse(file.read())
