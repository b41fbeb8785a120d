"""What a checkpoint does to images and texts before its towers see them, by name, inside the graph.

Source: big_vision `pp/ops_image.py`; Hugging Face `SiglipImageProcessor`; KerasHub `SigLIPImageConverter`.
"""

from typing import Any

import tensorflow as tf

from siglip_tf.data.bicubic import resize_bicubic
from siglip_tf.data.image_decoding import MAX_PIXELS, decode_image
from siglip_tf.data.text import Tokenizer

METHODS = ("big_vision", "bicubic_antialias")


class ImagePreprocessing:
    """Encoded image or pixels to the float32 image a tower was trained on.

    Both methods squash the aspect ratio to a square and map 0..255 to [-1, 1].

    Args:
        size: height and width of the result, in pixels.
        method: "big_vision": bilinear without antialias, cut to uint8; the paper's checkpoints and training.
            "bicubic_antialias": Pillow's bicubic; what open_clip, Hugging Face and KerasHub feed.
        max_pixels: largest image that is decoded; a header that announces more is an error.

    Raises:
        ValueError: unknown method, or a size below one pixel.

    Example:
        preprocess = ImagePreprocessing(224)
        image = preprocess(tf.io.read_file("cat.jpg"))  # float32 (224, 224, 3)
    """

    def __init__(self, size: int, method: str = "big_vision", max_pixels: int = MAX_PIXELS):
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}. Received: {method!r}")
        if size < 1:
            raise ValueError(f"size must be at least one pixel. Received: {size}")
        self.size = size
        self.method = method
        self.max_pixels = max_pixels

    def pixels(self, image: Any) -> tf.Tensor:
        """Resized pixels, a quarter of the bytes of `__call__`'s result: batch these, then `normalize` the batch.

        Args:
            image: scalar string (JPEG, PNG, GIF or BMP bytes) or uint8 (height, width, 3).

        Returns:
            uint8 (size, size, 3).

        Raises:
            tf.errors.InvalidArgumentError: undecodable bytes, or more than `max_pixels`.
        """
        image = tf.convert_to_tensor(image)
        exact_bicubic = self.method == "bicubic_antialias"
        if image.dtype == tf.string:
            image = decode_image(image, accurate=exact_bicubic, max_pixels=self.max_pixels)
        if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[2] != 3:
            raise ValueError(
                "Expected image bytes (scalar string) or pixels uint8 (height, width, 3). "
                f"Received: {image.dtype.name} {image.shape}"
            )
        if exact_bicubic:
            return resize_bicubic(image, self.size)
        resized = tf.raw_ops.ResizeBilinear(
            images=image[None], size=[self.size, self.size], half_pixel_centers=True, align_corners=False
        )
        # A convex combination of bytes needs no clipping before the cast.
        return tf.cast(resized[0], tf.uint8)

    @staticmethod
    def normalize(pixels: tf.Tensor) -> tf.Tensor:
        """uint8 (..., 3) to float32 (..., 3) in [-1, 1]."""
        return tf.cast(pixels, tf.float32) / 127.5 - 1.0

    def __call__(self, image: Any) -> tf.Tensor:
        """One image to float32 (size, size, 3) in [-1, 1]; takes and raises what `pixels` does."""
        return self.normalize(self.pixels(image))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return {"size": self.size, "method": self.method, "max_pixels": self.max_pixels}

    to_config = get_config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ImagePreprocessing":
        """The inverse of `to_config`."""
        return cls(**config)


class Preprocessing(tf.Module):
    """The preprocessing a checkpoint owns: its images' and, where it has a text tower, its tokenizer's.

    Args:
        image: `ImagePreprocessing`, or None.
        text: `Tokenizer`, or None.
    """

    def __init__(self, image: ImagePreprocessing | None, text: Tokenizer | None = None):
        super().__init__(name="preprocessing")
        self.image = image
        self.text = text

    def to_config(self, vocabulary: bool = True) -> dict[str, Any]:
        """JSON-able config; `vocabulary=False` leaves the SentencePiece model out, for a file beside the config."""
        text = None
        if self.text is not None:
            text = self.text.to_config() if vocabulary else self.text.get_config()
        return {"image": None if self.image is None else self.image.to_config(), "text": text}

    @classmethod
    def from_config(cls, config: dict[str, Any], model_proto: bytes | None = None) -> "Preprocessing":
        """The inverse of `to_config`; `model_proto` is the SentencePiece model where the config holds none."""
        image, text = config.get("image"), config.get("text")
        tokenizer = None
        if text is not None:
            tokenizer = Tokenizer.from_config(text) if model_proto is None else Tokenizer(model_proto, **text)
        return cls(None if image is None else ImagePreprocessing.from_config(image), tokenizer)
