"""Imports point one way, without a circle, and `import siglip_tf` costs little more than TensorFlow itself."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent

# A file imports from its own package and from packages further up this list; those of one line may not import each
# other, but for the arrows.
RANKS = [
    {
        "siglip_tf.version",
        "siglip_tf.processor",
        "siglip_tf.backend",
        "siglip_tf.cache",
        "siglip_tf.signals",
        "siglip_tf.storage",
        "siglip_tf.source_digest",
        "siglip_tf.op_errors",
        "siglip_tf.pages",
        "siglip_tf.primitives",
    },
    {
        "siglip_tf.distribution",
        "siglip_tf.data",
        "siglip_tf.synthetic",
        "siglip_tf.checkpoints",
        "siglip_tf.optimizers",
    },
    {"siglip_tf.losses"},
    {"siglip_tf.models"},
    {"siglip_tf.training", "siglip_tf.evaluation", "siglip_tf.export", "siglip_tf.tpu"},
    {"siglip_tf.public", "siglip_tf.serve"},
    {"siglip_tf"},
    {"siglip_tf.experiments"},
    {"recipes"},
    {"tools"},
]
ARROWS = {
    ("siglip_tf.synthetic", "siglip_tf.data"),
    ("siglip_tf.export", "siglip_tf.evaluation"),
    ("siglip_tf.training", "siglip_tf.evaluation"),
}

# Heavy or optional: imported where they are used, never by `import siglip_tf`.
LAZY = {
    "jax", "keras_hub", "matplotlib", "ml_collections", "PIL", "pyarrow", "scipy", "sentencepiece", "sklearn",
    "tensorflow_datasets", "torch", "transformers",
}  # fmt: skip


def python_files():
    return [p for top in ("siglip_tf", "recipes", "tools") for p in sorted((ROOT / top).rglob("*.py"))]


def package_of(module):
    """The part of a module's name that has a rank."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "siglip_tf" else parts[0]


def imports_of(path):
    """Names of modules of this project that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # a wheel holds `tools` and `recipes` inside `siglip_tf`, so they find siblings relatively
                package = path.relative_to(ROOT).parts[:-1]
                assert package[0] in ("recipes", "tools"), f"{path}: relative import"
                parts = [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
                module = ".".join(parts)
            else:
                module = node.module
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] in ("siglip_tf", "recipes", "tools", "tests"):
                yield name


def edges():
    known = {package for rank in RANKS for package in rank}
    for path in python_files():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        source = package_of(module)
        for name in imports_of(path):
            target = package_of(name)
            yield source, target if target in known else "siglip_tf", path.relative_to(ROOT)


def test_nothing_imports_upwards():
    rank = {package: i for i, packages in enumerate(RANKS) for package in packages}
    wrong = [
        f"{path}: {source} imports {target}"
        for source, target, path in edges()
        if source != target and (source, target) not in ARROWS and rank[source] <= rank.get(target, len(RANKS))
    ]
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_every_folder_has_a_rank():
    known = {package for rank in RANKS for package in rank}
    folders = {f"siglip_tf.{p.parent.name}" for p in (ROOT / "siglip_tf").glob("*/__init__.py")}
    assert folders <= known, folders - known


def test_import_stays_light():
    code = (
        "import sys, tensorflow, keras, tensorflow_text; before = set(sys.modules); import siglip_tf; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not LAZY & set(printed.stdout.split())


def test_commands_that_only_print_do_not_wait_for_tensorflow():
    code = (
        "import sys; sys.orig_argv = ['python', '/bin/siglip-tf', *sys.argv[1:]]; import siglip_tf; "
        "print('tensorflow' in sys.modules)"
    )
    for words, waits in (([], False), (["--help"], False), (["--version"], False), (["search", "index"], True)):
        command = [sys.executable, "-c", code, *words]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert printed.stdout == f"{waits}\n", words


def test_private_names_stay_in_their_module():
    wrong = []
    for path in [*python_files(), *sorted((ROOT / "tests").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "siglip_tf":
                wrong += [f"{path.relative_to(ROOT)}: {a.name}" for a in node.names if a.name.startswith("_")]
    assert not [row for row in wrong if not row.endswith("__version__")], "\n".join(wrong)
