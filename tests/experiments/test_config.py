"""Settings of recipes: closed to unknown keys and impossible values, and checked before anything heavy is imported."""

import subprocess
import sys

import pytest

from recipes import siglip
from siglip_tf.experiments import checks, schema
from siglip_tf.experiments.config import flat, override


@pytest.fixture(name="c")
def fixture_c():
    return siglip.RECIPE.settings("4k")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("batch=8192", "batch", 8192),
        ("batch=4e3", "batch", 4000),
        ("optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("optimizer.clip=None", "optimizer.clip", None),
        ("model.init_bias=None", "model.init_bias", None),
        ("model.image=L/16", "model.image", "L/16"),
        ("model.remat=none", "model.remat", "none"),  # a policy, not nothing
        ("model.text_depth=2", "model.text_depth", 2),
        ("model.scan_layers=false", "model.scan_layers", False),
        ("duration=30 epochs", "duration", "30 epochs"),
        ("duration=30", "duration", "30"),
        ("data=shards/{0..9}.tar", "data", "shards/{0..9}.tar"),
    ],
)
def test_a_value_takes_the_settings_type(c, text, key, value):
    override(c, [text])
    assert flat(c)[key] == value
    assert type(flat(c)[key]) is type(value)


# What is refused -> what the message says.
REFUSED = {
    "batch": "key=value",
    "btach=3": "Did you mean batch",
    "learning_rate=3": "Did you mean optimizer.learning_rate",
    "model.negatives=3": "no setting",
    "batch=large": "of type int",
    "batch=0.5": "of type int",
    "batch=true": "of type int",
    "batch=None": "of type int",
    "batch=-32": "batch >= 2. Received: -32",
    "batch=1": ">= 2",
    "model.text_depth=2.5": "of type int",
    "model.text_depth=0": ">= 1 or None. Received: 0",
    "model.scan_layers=3": "of type bool",
    "model.image=XL/16": "as 'B/16'",
    "model.image=B/0": "as 'B/16'",
    "model.text=Q": "among mu, Ti",
    "model.loss=hinge": "among sigmoid, softmax",
    "model.dropout=1": "< 1",
    "model.init_temperature=0": "> 0",
    "model.dtype=bfloat17": "among auto, float32",
    "optimizer.learning_rate=fast": "of type float",
    "optimizer.learning_rate=-1": "> 0. Received: -1.0",
    "optimizer.learning_rate=0": "> 0",
    "optimizer.learning_rate=1e999": "finite",
    "optimizer.weight_decay=-1e-4": ">= 0",
    "optimizer.beta_2=1.0": "< 1",
    "optimizer.layer_decay=1.5": "<= 1",
    "optimizer.name=adam": "adafactor, adamw, lion",
    "optimizer.clip=0": "> 0 or None",
    "schedule.name=step": "cosine",
    "schedule.warmup=ten": "65k steps",
    "duration=0 steps": "not 0",
    "duration=-5": "not 0",
    "duration=50%": "not in percent",
    "duration=5 fortnights": "not 0",
    "topology=v9:2x2": "v4, v5e",
    "topology=v4:0x2x1": "v4:2x2x1",
    "on_fault=ignore": "among stop, skip",
    "spike=1.0": "> 1 or None",
    "seed=-1": ">= 0",
    "languages=9": "<= 6",
    "checkpoint_every=0": ">= 1",
    "keep_last=0": ">= 1",
    "image_alpha=black": "among drop, white",
    "tune.image=half": "among whole",
    "augment.shift=0.9": "<= 0.5",
    "evaluate.patience=0": ">= 1",
    "data= ": "to name something",
}


def test_what_cannot_be_is_refused_by_name(c):
    before = flat(c)
    for text, message in REFUSED.items():
        with pytest.raises(ValueError) as error:
            override(c, [text])
        assert message in str(error.value), (text, str(error.value))
    assert flat(c) == before


# Settings that are right alone and wrong together.
TOGETHER = {
    ("model.image=B",): "Expected a patch size",
    ("model.patch_size=8",): "Expected one patch size",
    ("model.image=B/300",): "at most model.image_size=224",
    ("model.text_width=64", "model.text_heads=5"): "heads that divide model.text_width=64",
    ("model.microbatch_size=1000",): "microbatch that divides batch=4096",
    ("model.remat=none",): "model.remat=block",
    ("schedule.warmup=60%", "schedule.cooldown=50%"): "fit into the run",
    ("steps_per_execution=3",): "multiple of steps_per_execution=3",
    ("evaluate.patience=3",): "--every STEPS",
    ("tune.image=frozen", "tune.text=frozen", "tune.scalars=false"): "something to train",
}


def test_what_does_not_fit_together_is_refused():
    for texts, message in TOGETHER.items():
        c = siglip.RECIPE.settings("4k")
        override(c, texts)
        with pytest.raises(ValueError) as error:
            checks.check(c, {})
        assert message in str(error.value), texts
    checks.check(siglip.RECIPE.settings("4k"), {})
    c = siglip.RECIPE.settings("4k")
    for key in ("data", "start", "tokenizer", "tower"):
        with pytest.raises(ValueError, match=f"--{key}"):
            override(c, [f"{key}=/nowhere/at/all"])
            checks.check(c, {})
        override(c, [f"{key}=none"])
    for data in ("gs://bucket/*.tar", "tfds:coco_captions", "synthetic", "/no/{0..9}.tar"):
        override(c, [f"data={data}"])
        checks.check(c, {})


def test_the_table_agrees_with_the_model_and_its_like():
    import inspect
    import typing

    import siglip_tf
    from siglip_tf.data.preprocessing import METHODS
    from siglip_tf.models import VARIANTS
    from siglip_tf.synthetic import LANGUAGES
    from siglip_tf.tpu.topology import CHIPS

    signature = inspect.signature(siglip_tf.SigLIP.__init__, eval_str=True).parameters
    # The seed is the run's, masked negatives are a study's, and NaFlex towers (max_patches) do not train.
    unset = ("self", "kwargs", "seed", "negatives", "max_patches")
    arguments = {name: p for name, p in signature.items() if name not in unset}
    assert set(arguments) == set(schema.MODEL) - {"dtype"}
    for name, parameter in arguments.items():
        setting, kinds = schema.MODEL[name], typing.get_args(parameter.annotation) or (parameter.annotation,)
        assert setting.default == parameter.default, name
        assert setting.kind in kinds and setting.optional == (type(None) in kinds), name
    assert tuple(VARIANTS) == schema.TOWERS and tuple(CHIPS) == schema.CHIPS
    assert len(LANGUAGES) == schema.LANGUAGE_COUNT
    assert schema.SCHEMA["image_method"].choices == METHODS
    for key, setting in schema.SCHEMA.items():
        setting.check(key, setting.default)


def test_a_mistake_is_told_before_tensorflow_is_imported():
    command = [sys.executable, "-X", "importtime", "-m", "recipes.siglip", "--synthetic", "--set", "batch=-32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "error: Expected batch >= 2" in done.stderr
    heavy = [line for line in done.stderr.splitlines() if line.endswith(("| tensorflow", "| keras", "| numpy"))]
    assert not heavy


def test_the_papers_values_arrive(c):
    values = flat(c)
    assert (values["batch"], values["duration"]) == (4096, "9B examples")
    assert (values["model.image"], values["model.text"], values["model.text_length"]) == ("B/16", "B", 16)
    assert (values["optimizer.beta_2"], values["model.init_bias"], values["model.init_temperature"]) == (0.95, -10, 10)
