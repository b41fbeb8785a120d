"""Random flip and inception crop, from stateless seeds; the paper trains without either.

Source: big_vision `pp/ops_image.py` (`flip_lr`, `inception_crop`); Szegedy et al., "Going deeper with convolutions".
"""

from typing import Any

import tensorflow as tf


class Augmentation:
    """What changes at random in a training image, between decoding and the tower.

    Args:
        flip: mirror left and right with probability 1/2. Captions that say "left" then lie.
        crop_area: smallest and largest part of the image's area that a random crop keeps, e.g. (0.05, 1.0);
            None crops nothing.
        crop_aspect: smallest and largest width / height of the crop.

    Raises:
        ValueError: a range that is empty or leaves (0, 1] for the area or (0, inf) for the aspect.
    """

    def __init__(
        self,
        flip: bool = False,
        crop_area: tuple[float, float] | None = None,
        crop_aspect: tuple[float, float] = (3 / 4, 4 / 3),
    ):
        if crop_area is not None and not 0.0 < crop_area[0] <= crop_area[1] <= 1.0:
            raise ValueError(f"crop_area must be (least, most) within (0, 1]. Received: {crop_area}")
        if not 0.0 < crop_aspect[0] <= crop_aspect[1]:
            raise ValueError(f"crop_aspect must be (least, most) above 0. Received: {crop_aspect}")
        self.flip = flip
        self.crop_area = None if crop_area is None else tuple(crop_area)
        self.crop_aspect = tuple(crop_aspect)

    def crop(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A random part of the image, of random area and aspect; the whole where none fits.

        Args:
            image: (height, width, channels).
            seed: int (2,).

        Returns:
            (crop height, crop width, channels).
        """
        if self.crop_area is None:
            return image
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([1, 0, 4]),
            seed=seed,
            # The crop need not cover any box: there are none.
            min_object_covered=0.0,
            area_range=self.crop_area,
            aspect_ratio_range=self.crop_aspect,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.ensure_shape(tf.slice(image, begin, size), [None, None, image.shape[2]])

    def mirror(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The image (height, width, channels), mirrored left to right for half of the seeds, int (2,)."""
        if not self.flip:
            return image
        flips = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1)) < 0.5
        return tf.cond(flips, lambda: tf.reverse(image, [1]), lambda: image)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"flip": self.flip, "crop_area": self.crop_area, "crop_aspect": self.crop_aspect}
