"""Pictures of any shape as patches: the preprocessing of SigLIP 2's NaFlex towers, inside the graph.

Source: transformers `models/siglip2/image_processing_siglip2.py`; big_vision `pp/proj/flex/`, `naflex_vit.py`.
"""

from typing import Any

import tensorflow as tf

from siglip_tf.data.images.decoding import decode_image
from siglip_tf.data.images.exact_resize import resize_exactly
from siglip_tf.data.images.header import MAX_PIXELS

NAFLEX_METHODS = ("bilinear_antialias", "bicubic_antialias")

_EPSILON = 1e-5  # Where transformers' binary search stops; the result depends on it.
_LARGEST_SCALE = 100.0


@tf.autograph.experimental.do_not_convert
def grid_of(height: tf.Tensor, width: tf.Tensor, patch_size: int, max_patches: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the rows and columns of patches that keep the aspect ratio and are at most `max_patches` together.

    This is a binary search for the largest scale. It stops where transformers' search stops, because the last step can
    decide the grid.

    Args:
        height, width: int32 scalars, the size of the picture in pixels.
        patch_size: side of a patch in pixels.
        max_patches: largest number of patches.

    Returns:
        int32 scalars, rows and columns, each at least 1.
    """
    size = tf.cast(tf.stack([height, width]), tf.float64)
    side, most = tf.cast(patch_size, tf.float64), tf.cast(max_patches, tf.float64)

    def patches(scale: tf.Tensor) -> tf.Tensor:
        return tf.maximum(tf.math.ceil(size * scale / side), 1.0)

    def narrow(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        middle = (low + high) / 2
        fits = tf.reduce_prod(patches(middle)) <= most
        return tf.where(fits, middle, low), tf.where(fits, high, middle)

    low, _ = tf.while_loop(
        lambda low, high: high - low >= _EPSILON,
        narrow,
        (tf.constant(_EPSILON / 10, tf.float64), tf.constant(_LARGEST_SCALE, tf.float64)),
    )
    rows, columns = tf.unstack(tf.cast(patches(low), tf.int32))
    return rows, columns


class NaFlexPreprocessing:
    """Turns an encoded image, or pixels, of any size into patches.

    The image is resized with its aspect ratio kept and cut into patches, which are padded to a fixed number.

    Args:
        patch_size: side of a patch in pixels.
        max_patches: number of patches per picture, padding included.
        method: "bilinear_antialias", which SigLIP 2 was trained with, or "bicubic_antialias"; Pillow's filters.
        exif: turn a picture upright as its EXIF tag says.
        max_pixels: largest image that is decoded, in pixels. A header that announces more is an error.

    Raises:
        ValueError: an unknown method, or a number below one.

    Example:
        preprocess = NaFlexPreprocessing(patch_size=16, max_patches=256)
        patches = preprocess(tf.io.read_file("panorama.jpg"))  # {"patches": (256, 768), "grid": (2,)}
    """

    def __init__(
        self,
        patch_size: int = 16,
        max_patches: int = 256,
        method: str = "bilinear_antialias",
        *,
        exif: bool = True,
        max_pixels: int = MAX_PIXELS,
    ):
        if method not in NAFLEX_METHODS:
            raise ValueError(f"Expected the method of NaFlex to be one of {NAFLEX_METHODS}. Received: {method!r}.")
        for name, value in (("patch_size", patch_size), ("max_patches", max_patches)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected {name} to be a positive integer. Received: {value!r}.")
        self.patch_size, self.max_patches, self.method = patch_size, max_patches, method
        self.exif, self.max_pixels = exif, max_pixels

    @property
    def spec(self) -> dict[str, tf.TensorSpec]:
        """Shapes and dtypes of what `pixels` returns."""
        return {
            "patches": tf.TensorSpec([self.max_patches, 3 * self.patch_size**2], tf.uint8),
            "grid": tf.TensorSpec([2], tf.int32),
        }

    @tf.autograph.experimental.do_not_convert
    def pixels(self, image: Any, *, fused: bool = False) -> dict[str, tf.Tensor]:
        """Returns the patches of one picture as bytes.

        Args:
            image: scalar string (JPEG, PNG, GIF, BMP, or WebP bytes) or uint8 (height, width, 3).
            fused: has no effect; `ImagePreprocessing.pixels` takes it too. The resize is exact in any case.

        Returns:
            "patches": uint8 (max_patches, patch_size * patch_size * 3), row by row, with zeros after the picture's
            own patches; "grid": int32 (2,), its rows and columns of patches.

        Raises:
            ValueError: something other than an image.
            tf.errors.InvalidArgumentError: bytes that cannot be decoded, or more than `max_pixels`.
        """
        image = tf.convert_to_tensor(image)
        if image.dtype == tf.string and image.shape.rank == 0:
            image = decode_image(image, accurate=True, exif=self.exif, max_pixels=self.max_pixels)
        if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[2] != 3:
            raise ValueError(
                "Expected image bytes (scalar string) or pixels uint8 (height, width, 3). "
                f"Received: {image.dtype.name} {image.shape}"
            )
        side = self.patch_size
        height, width = tf.unstack(tf.shape(image)[:2])
        rows, columns = grid_of(height, width, side, self.max_patches)
        image = resize_exactly(image, (rows * side, columns * side), self.method.removesuffix("_antialias"))
        patches = tf.transpose(tf.reshape(image, [rows, side, columns, side, 3]), [0, 2, 1, 3, 4])
        patches = tf.reshape(patches, [rows * columns, side * side * 3])
        patches = tf.pad(patches, [[0, self.max_patches - rows * columns], [0, 0]])
        return {
            "patches": tf.ensure_shape(patches, [self.max_patches, side * side * 3]),
            "grid": tf.stack([rows, columns]),
        }

    @staticmethod
    def normalize(pixels: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Maps patches of bytes, in batches of any shape, to float32 in [-1, 1]."""
        return {**pixels, "patches": tf.cast(pixels["patches"], tf.float32) / 127.5 - 1.0}

    def __call__(self, image: Any) -> dict[str, tf.Tensor]:
        """Returns one image as float32 patches in [-1, 1], and their grid. See `pixels` for arguments and errors."""
        return self.normalize(self.pixels(image))

    def to_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, which JSON can hold."""
        names = ("patch_size", "max_patches", "method", "exif", "max_pixels")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NaFlexPreprocessing":
        """Makes a preprocessing from what `to_config` returned."""
        return cls(**config)
