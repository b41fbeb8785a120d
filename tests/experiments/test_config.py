"""Settings of recipes: typed, closed to unknown keys, and read from the command line as they are printed."""

import pytest

from recipes import siglip
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch", "key=value"),
        ("btach=3", "Did you mean batch"),
        ("learning_rate=3", "Did you mean optimizer.learning_rate"),
        ("model.negatives=3", "no setting"),
        ("batch=large", "of type int"),
        ("batch=0.5", "of type int"),
        ("batch=true", "of type int"),
        ("batch=None", "of type int"),
        ("model.text_depth=2.5", "of type int"),
        ("model.scan_layers=3", "of type bool"),
        ("optimizer.learning_rate=fast", "of type float"),
    ],
)
def test_what_does_not_fit_is_refused(c, text, message):
    before = flat(c)
    with pytest.raises(ValueError, match=message):
        override(c, [text])
    assert flat(c) == before


def test_every_argument_of_the_model_is_a_setting(c):
    import inspect

    import siglip_tf

    arguments = set(inspect.signature(siglip_tf.SigLIP.__init__).parameters) - {"self", "kwargs", "seed", "negatives"}
    assert {f"model.{name}" for name in arguments} <= set(flat(c))


def test_the_papers_values_arrive(c):
    values = flat(c)
    assert (values["batch"], values["duration"]) == (4096, "9B examples")
    assert (values["model.image"], values["model.text"], values["model.text_length"]) == ("B/16", "B", 16)
    assert (values["optimizer.beta_2"], values["model.init_bias"], values["model.init_temperature"]) == (0.95, -10, 10)
