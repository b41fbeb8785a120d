"""Equal to Pillow to the bit, at any size."""

import numpy as np
import tensorflow as tf
from PIL import Image

from siglip_tf.data.images.exact_resize import resize_exactly

SHAPES = [((1, 700), (16, 4096)), ((200, 37), (336, 64)), ((90, 120), (32, 48)), ((33, 40), (33, 17)), ((5, 5), (5, 5))]


def test_equal_to_pillow_to_the_bit():
    rng = np.random.default_rng(0)
    shapes = SHAPES + [(tuple(rng.integers(1, 90, 2)), tuple(rng.integers(1, 90, 2))) for _ in range(10)]
    for name, filter in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        in_graph = tf.function(
            lambda image, size, name=name: resize_exactly(image, (size[0], size[1]), name),
            input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int32)],
        )
        for (height, width), size in shapes:
            image = (rng.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)  # hard edges clip most
            wanted = np.asarray(Image.fromarray(image).resize((int(size[1]), int(size[0])), filter))
            np.testing.assert_array_equal(in_graph(image, np.int32(size)), wanted, err_msg=f"{name} {image.shape}")
