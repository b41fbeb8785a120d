"""Random changes to training pictures, from stateless seeds. The paper trains without any.

Crop and flip change one picture between decoding and batching. Shift, scale, rotation, and color change a whole
batch, in one operation each.

Source: big_vision `pp/ops_image.py` (`flip_lr`, `inception_crop`); Szegedy et al., "Going deeper with convolutions".
"""

import math
from typing import Any

import tensorflow as tf

from siglip_tf.primitives.hashing import hash_bits

FLIP_UNLESS_SIDED = "captions"
# A caption with one of these words becomes untrue when its picture is mirrored.
_SIDED = (
    r"(?i).*\b(left|right|(left|right)-?(ward|wards|hand|handed|most|facing)|(counter|anti)?-?clockwise|links|rechts|"
    r"linke[rnms]?|rechte[rnms]?|gauche|droite?|izquierd[ao]|derech[ao]|sinistr[ao]|destr[ao]|esquerd[ao]|direit[ao])\b.*|"
    r".*[\x{5de6}\x{53f3}].*"
)
_DRAWS = 10
_CHANNEL_SHARE = 0.2  # A channel may move against the others by this fraction of `color`.


class Augmentation:
    """Random changes to a training image after decoding.

    Args:
        flip: True mirrors pictures with probability 1/2. "captions" does so only if the caption contains no word such
            as "left" or "right", which would become untrue. Writing in the picture is mirrored, too.
        crop_area: smallest and largest fraction of the image's area that a random crop keeps, e.g. (0.05, 1.0).
            None does not crop.
        crop_aspect: smallest and largest width / height of the crop.
        shift: largest shift along each axis, as a fraction of the picture's side, from 0 to 0.5.
        scale: largest change of size, as a fraction of it, below 1. Width and height may differ by half as much.
        rotate: largest rotation in degrees, in either direction. Uncovered parts repeat the picture's border.
        color: largest change of brightness, contrast, and saturation, from 0 to 1. Channels move apart by up to a
            fifth of it.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        flip: bool | str = False,
        crop_area: tuple[float, float] | None = None,
        crop_aspect: tuple[float, float] = (3 / 4, 4 / 3),
        *,
        shift: float = 0.0,
        scale: float = 0.0,
        rotate: float = 0.0,
        color: float = 0.0,
    ):
        if flip not in (False, True, FLIP_UNLESS_SIDED):
            raise ValueError(f"flip must be False, True or {FLIP_UNLESS_SIDED!r}. Received: {flip!r}")
        if crop_area is not None and not 0.0 < crop_area[0] <= crop_area[1] <= 1.0:
            raise ValueError(f"crop_area must be (least, most) within (0, 1]. Received: {crop_area}")
        if not 0.0 < crop_aspect[0] <= crop_aspect[1]:
            raise ValueError(f"crop_aspect must be (least, most) above 0. Received: {crop_aspect}")
        for name, value, most in (
            ("shift", shift, 0.5),
            ("scale", scale, 0.99),
            ("rotate", rotate, 180),
            ("color", color, 1),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name} must be between 0 and {most}. Received: {value}")
        self.flip = flip
        self.shift, self.scale, self.rotate, self.color = shift, scale, rotate, color
        self.crop_area = None if crop_area is None else tuple(crop_area)
        self.crop_aspect = tuple(crop_aspect)

    def crop(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns a random part of the image, of random area and aspect, or the whole image if no crop fits.

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
            # There are no bounding boxes that the crop must cover.
            min_object_covered=0.0,
            area_range=self.crop_area,
            aspect_ratio_range=self.crop_aspect,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.ensure_shape(tf.slice(image, begin, size), [None, None, image.shape[2]])

    def mirror(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Mirrors the image (height, width, channels) left to right for half of the seeds, int (2,)."""
        if self.flip is not True:
            return image
        flips = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1)) < 0.5
        return tf.cond(flips, lambda: tf.reverse(image, [1]), lambda: image)

    @property
    def changes_batches(self) -> bool:
        """Whether `batch` changes anything."""
        return bool(self.shift or self.scale or self.rotate or self.color or self.flip == FLIP_UNLESS_SIDED)

    @staticmethod
    def draws(seeds: tf.Tensor) -> tf.Tensor:
        """Draws each picture's random numbers, float32 (batch, 10) in [0, 1), from the seeds, int64 (batch, 2)."""
        halves = tf.reshape(tf.bitcast(seeds, tf.int32), [-1, 4])  # (batch, 4)
        bits = hash_bits(*tf.split(halves, 4, axis=1), tf.range(_DRAWS)[None])
        return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24

    def batch(self, images: tf.Tensor, captions: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Shifts, scales, rotates, and colors a batch, and mirrors it if `flip` is "captions".

        Args:
            images: float32 (batch, height, width, 3) in [-1, 1].
            captions: string (batch,).
            draws: float32 (batch, 10), see `draws`.

        Returns:
            float32 (batch, height, width, 3) in [-1, 1].
        """
        either_way = 2 * draws - 1  # (batch, 10) in [-1, 1)
        if self.shift or self.scale or self.rotate or self.flip == FLIP_UNLESS_SIDED:
            images = self._moved(images, captions, draws, either_way)
        return self._colored(images, either_way) if self.color else images

    def _moved(self, images: tf.Tensor, captions: tf.Tensor, draws: tf.Tensor, either_way: tf.Tensor) -> tf.Tensor:
        height, width = images.shape[1:3]
        size = 1 + self.scale * either_way[:, 0]
        aspect = 1 + 0.5 * self.scale * either_way[:, 1]
        angle = self.rotate * math.pi / 180 * either_way[:, 2]
        down, across = self.shift * height * either_way[:, 3], self.shift * width * either_way[:, 4]
        x, y = size * aspect, size / aspect
        if self.flip == FLIP_UNLESS_SIDED:
            mirrored = (draws[:, 5] < 0.5) & ~tf.strings.regex_full_match(captions, _SIDED)
            x = tf.where(mirrored, -x, x)
        # The matrix maps each pixel of the result to its place in the picture, relative to the center.
        a, b, c, d = tf.cos(angle) * x, -tf.sin(angle) * y, tf.sin(angle) * x, tf.cos(angle) * y
        center_x, center_y = (width - 1) / 2, (height - 1) / 2
        zero = tf.zeros_like(a)
        matrix = tf.stack(
            [a, b, center_x - a * center_x - b * center_y + across, c, d, center_y - c * center_x - d * center_y + down,
             zero, zero], axis=1,
        )  # fmt: skip
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=matrix,
            output_shape=[height, width],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="NEAREST",
        )
        return tf.ensure_shape(moved, images.shape)

    def _colored(self, images: tf.Tensor, either_way: tf.Tensor) -> tf.Tensor:
        by_picture = either_way[:, None, None, :]
        gray = tf.reduce_mean(images, axis=-1, keepdims=True)
        images = gray + (images - gray) * (1 + self.color * by_picture[..., 6:7])
        images = images * (1 + self.color * by_picture[..., 7:8]) + self.color * by_picture[..., 8:9]
        channels = tf.stack([by_picture[..., 9], -by_picture[..., 9], by_picture[..., 1]], axis=-1)
        return tf.clip_by_value(images + _CHANNEL_SHARE * self.color * channels, -1.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("flip", "crop_area", "crop_aspect", "shift", "scale", "rotate", "color")
        return {name: getattr(self, name) for name in names}
