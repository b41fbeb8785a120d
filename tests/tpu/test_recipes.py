"""All of `fit` of every recipe, traced under a made-up TPUStrategy with tiny towers and the recipe's own options."""

import importlib
import pathlib

import pytest
import tensorflow as tf

from siglip_tf import tpu

RECIPES = pathlib.Path(__file__).parents[2] / "recipes"
REPLICAS, BATCH = 2, 8
SIZES = {
    "text": "mu",
    "text_depth": 2,
    "text_length": 5,
    "vocab_size": 40,
    "image_size": 16,
}
IMAGE = {"image": "mu/8", "image_depth": 2}


def recipes():
    """Modules of `recipes` that give a subject."""
    return [path.stem for path in sorted(RECIPES.glob("*.py")) if "\ntpu_subject = " in path.read_text()]


@pytest.mark.parametrize(
    "name", [n if n in {"siglip", "siglit"} else pytest.param(n, marks=pytest.mark.slow) for n in recipes()]
)
def test_all_of_fit_is_traced(name):
    recipe = importlib.import_module(f"recipes.{name}")
    c = recipe.RECIPE.settings()
    options = {**SIZES, **(IMAGE if c.model.image else {"embed_dim": 32})}
    options |= {"microbatch_size": 2} if c.model.microbatch_size else {}
    options |= {"token_bottleneck": 4} if c.model.token_bottleneck else {}
    strategy = tpu.made_up_tpu_strategy(REPLICAS)
    with tpu.weightless_scope(strategy):
        subject = recipe.tpu_subject(**options)
    program = tpu.trace_fit(subject.model, dataset(subject.batch))
    tpu.check_program(program)
    assert {a.name for a in program.arguments if a.kind == "variable"} >= {
        v.path for v in subject.model.trainable_variables
    }


def test_recipes_are_found():
    assert {"siglip", "siglit", "msiglip", "unlocked", "overtrain", "resolution"} <= set(recipes())


def dataset(specs):
    batch = {key: tf.zeros((BATCH, *spec.shape), spec.dtype) for key, spec in specs.items()}
    return tf.data.Dataset.from_tensors(batch).repeat(2)
