"""Public models have exactly the published number of parameters; nothing is allocated to count them."""

import keras
import numpy as np
import pytest

import siglip_tf


@pytest.fixture(autouse=True)
def _nothing_left_to_initialize():
    """Keras keeps what was never initialized, to do so when any later scope ends: gigabytes, in some other test."""
    yield
    keras.utils.clear_session()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"image": "B/16", "text": "B"}, 203_155_970),
    ]
    + [
        pytest.param(arguments, count, marks=pytest.mark.slow)
        for arguments, count in (
            ({"image": "L/16", "text": "L", "image_size": 256}, 652_150_786),
            ({"image": "So400m/14", "text": "So400m", "text_length": 16}, 877_360_306),
            ({"image": "So400m/14", "text": "So400m", "image_size": 384}, 877_960_498),
            ({"image": "B/16", "text": "B", "image_size": 256, "vocab_size": 250_000}, 370_626_050),
            ({"image": "B/16", "text": "B", "vocab_size": 256_000}, 375_187_970),
            ({"image": "g-opt/16", "text": "So400m", "image_size": 256, "vocab_size": 256_000}, 1_871_393_906),
        )
    ],
)
def test_count(arguments, expected):
    with keras.StatelessScope(initialize_variables=False):
        model = siglip_tf.SigLIP(**arguments)
    counts = {name: np.prod(v.shape, dtype=np.int64) for name, v in model.named_weights().items()}
    assert sum(counts.values()) == expected
    if arguments == {"image": "B/16", "text": "B"}:
        assert sum(c for name, c in counts.items() if name.startswith("image/")) == 92_884_224
        assert sum(c for name, c in counts.items() if name.startswith("text/")) == 110_271_744


def test_bottleneck_replaces_the_table_by_two_factors():
    with keras.StatelessScope(initialize_variables=False):
        model = siglip_tf.SigLIP(vocab_size=250_000, token_bottleneck=96)
    named = {name: tuple(v.shape) for name, v in model.named_weights().items() if "token_embedding" in name}
    assert named == {"text/token_embedding/embedding": (250_000, 96), "text/token_embedding/projection": (96, 768)}
