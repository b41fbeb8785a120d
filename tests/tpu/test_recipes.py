"""All of `fit` of every recipe, traced under a made-up TPUStrategy with tiny towers and the recipe's own options."""

import importlib
import json
import pathlib
import subprocess
import sys

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


@pytest.mark.parametrize("name", [n if n == "siglit" else pytest.param(n, marks=pytest.mark.slow) for n in recipes()])
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "setup", "topology", "hosts"),
    [("unlocked", "no_decay", "v4:2x2x4", 4), ("siglip", "32k", "v4:2x4x4", 8), ("siglip", "4k", "v5e:4x4", 2)],
)
def test_every_host_has_an_input_pipeline(name, setup, topology, hosts):
    command = [sys.executable, "-m", "tests.tpu.hosts", name, setup, topology]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=RECIPES.parent, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    chips = tpu.Topology(topology).chips
    assert found == {"pipelines": [[host, hosts, chips] for host in range(hosts)], "replicas": chips}


def test_hosts_share_the_chips_evenly():
    assert [tpu.Topology(name).hosts for name in ("v4:2x2x1", "v4:2x2x4", "v4:2x4x4", "v5e:2x4", "v5e:4x4")] == [
        1, 4, 8, 1, 2,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="share 6 replicas evenly. Received: hosts=4"):
        tpu.made_up_tpu_strategy(6, 4)
    with pytest.raises(ValueError, match="whole number of hosts. Received: hosts=0"):
        tpu.made_up_tpu_strategy(4, 0)


def test_recipes_are_found():
    assert {"siglip", "siglit", "msiglip", "unlocked", "overtrain", "resolution"} <= set(recipes())


def dataset(specs):
    batch = {key: tf.zeros((BATCH, *spec.shape), spec.dtype) for key, spec in specs.items()}
    return tf.data.Dataset.from_tensors(batch).repeat(2)
