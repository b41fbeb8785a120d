"""Broken GIFs are refused with a message, whatever their bytes."""

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data.images.gif import decode_gif, gif_announced

# Two colors, and a frame of 2 x 1 pixels.
SOUND = (
    b"GIF89a\x02\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
    b"\x2c\x00\x00\x00\x00\x02\x00\x01\x00\x00\x02\x02\x44\x0a\x00\x3b"
)


def test_cut_and_changed():
    """An error that repeated bytes that are no UTF-8 would be a UnicodeDecodeError."""
    decode = tf.function(decode_gif, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    announced = tf.function(gif_announced, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    assert decode(SOUND).shape == (1, 2, 4)
    rng = np.random.default_rng(0)
    broken = [SOUND[:end] for end in range(6, len(SOUND))]
    for _ in range(300):
        changed = np.frombuffer(SOUND, np.uint8).copy()
        changed[rng.integers(6, len(changed), 3)] = rng.integers(0, 256, 3)
        changed[4] = 0x93
        broken.append(changed.tobytes()[: rng.integers(20, len(changed) + 1)])
    refused = 0
    for data in broken:
        height, width, _ = announced(data).numpy()
        if height * width < 10_000:
            try:
                decode(data)
            except tf.errors.InvalidArgumentError:
                refused += 1
    assert refused > 50
    with pytest.raises(tf.errors.InvalidArgumentError):
        # The frame announces a table of colors beyond the end.
        decode(b"GIF8\x93a\x02\x00\x01\x00\x80\x00\x00k\x00\x00\xff\xff\xff,\0\0\0\0\xea\x8c\x01\0\xcd\x02\x02D\n\0;")
