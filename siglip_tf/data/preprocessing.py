"""How a checkpoint prepares images and texts for its towers, in the graph.

Source: big_vision `pp/ops_image.py`; Hugging Face `SiglipImageProcessor`; KerasHub `SigLIPImageConverter`.
"""

from typing import Any

import tensorflow as tf

from siglip_tf.data.images.augmentation import Augmentation
from siglip_tf.data.images.decoding import decode_image
from siglip_tf.data.images.fused_resize import can_fuse, fused_resize
from siglip_tf.data.images.header import MAX_PIXELS
from siglip_tf.data.images.naflex import NaFlexPreprocessing
from siglip_tf.data.images.pillow_resize import resize_as_pillow
from siglip_tf.data.images.transparency import ALPHA
from siglip_tf.data.text.tokenizer import Tokenizer

METHODS = ("big_vision", "bicubic_antialias", "bilinear_antialias")


class ImagePreprocessing:
    """Turns an encoded image, or pixels, into the float32 image that a tower was trained on.

    All methods resize the image to a square, whatever its aspect ratio, and map 0..255 to [-1, 1].

    Args:
        size: height and width of the result, in pixels.
        method: "big_vision" is TensorFlow's default JPEG decoding and bilinear resizing without antialias, truncated
            to uint8. The paper's checkpoints were trained with it, and it is the fastest. "bicubic_antialias" is
            accurate JPEG decoding and Pillow's bicubic filter, as open_clip, Hugging Face, and KerasHub use for
            SigLIP. "bilinear_antialias" is the same with Pillow's bilinear filter, as Hugging Face uses for SigLIP 2.
        exif: turn a JPEG, PNG, or WebP upright as its EXIF or XMP says. None follows the method: Hugging Face's
            `load_image` turns pictures, big_vision does not.
        alpha: "white" composes transparent pictures on white, for models that are trained from scratch. "drop" shows
            the colors under the transparency, as in the training of all public checkpoints; a pipeline logs once that
            it met a transparent picture.
        scaled_decoding: decode a large JPEG at 1/2, 1/4, or 1/8 of its size if both sides stay at least `size`. This
            saves time with an antialias method but is not exact: pixels of photographs at 224 differ by 0.3 to 0.6 of
            255 on average and by 9 at most.
        max_pixels: largest image that is decoded, in pixels. A header that announces more is an error.

    Raises:
        ValueError: an unknown method or `alpha`, a size below one pixel, or scaled decoding with "big_vision".

    Example:
        preprocess = ImagePreprocessing(224)
        image = preprocess(tf.io.read_file("cat.jpg"))  # float32 (224, 224, 3)
    """

    def __init__(
        self,
        size: int,
        method: str = "big_vision",
        *,
        exif: bool | None = None,
        alpha: str = "drop",
        scaled_decoding: bool = False,
        max_pixels: int = MAX_PIXELS,
    ):
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}. Received: {method!r}")
        if alpha not in ALPHA:
            raise ValueError(f"alpha must be one of {ALPHA}. Received: {alpha!r}")
        if size < 1:
            raise ValueError(f"size must be at least one pixel. Received: {size}")
        if scaled_decoding and method == "big_vision":
            raise ValueError(
                'scaled_decoding needs an antialias method: with "big_vision" it would change what is seen.'
            )
        self.size = size
        self.method = method
        self.exif = method != "big_vision" if exif is None else exif
        self.alpha = alpha
        self.scaled_decoding = scaled_decoding
        self.max_pixels = max_pixels

    def _decode(self, data: tf.Tensor, note: bool) -> tf.Tensor:
        return decode_image(
            data,
            accurate=self.method != "big_vision",
            exif=self.exif,
            alpha=self.alpha,
            note=note,
            max_pixels=self.max_pixels,
            at_least=self.size if self.scaled_decoding else None,
        )

    def _resize(self, image: tf.Tensor, fused: bool) -> tf.Tensor:
        if fused and can_fuse():
            return fused_resize(image, self.size, self.method.removesuffix("_antialias"))
        if self.method != "big_vision":
            return resize_as_pillow(image, self.size, self.method.removesuffix("_antialias"))
        size = [self.size, self.size]
        resized = tf.raw_ops.ResizeBilinear(images=image[None], size=size, half_pixel_centers=True)[0]
        # A convex combination of bytes needs no clipping. The cast truncates, as big_vision's does.
        return tf.cast(resized, tf.uint8)

    @property
    def resize_kernel(self) -> str:
        """What resizes in this machine's pipelines: "compiled", "tensorflow", or "any" if both give the same bits.

        With an antialias method, the two differ by up to two levels of 255.
        """
        if self.method == "big_vision":
            return "any"
        return "compiled" if can_fuse() else "tensorflow"

    @property
    def spec(self) -> tf.TensorSpec:
        """Shape and dtype of what `pixels` returns."""
        return tf.TensorSpec([self.size, self.size, 3], tf.uint8)

    @tf.autograph.experimental.do_not_convert
    def pixels(
        self,
        image: Any,
        augmentation: Augmentation | None = None,
        seed: tf.Tensor | None = None,
        *,
        fused: bool = False,
        note: bool | None = None,
    ) -> tf.Tensor:
        """Returns the resized pixels as bytes, a quarter of the size of `__call__`'s result. A model accepts them.

        Args:
            image: scalar string (JPEG, PNG, GIF, BMP, or WebP bytes) or uint8 (height, width, 3).
            augmentation: random crop and flip, or None.
            seed: int (2,), required with `augmentation`.
            fused: resize by this package's own operation if it can be built (see `fused_resize`), for input
                pipelines. It is several times as fast, and its result equals Pillow's, from which TensorFlow's
                operations differ by up to two levels. A graph that holds it cannot be saved as a SavedModel.
            note: whether to log once that `alpha` "drop" met a transparent picture; None means the value of `fused`.

        Returns:
            uint8 (size, size, 3).

        Raises:
            ValueError: something other than an image, or augmentation without a seed.
            tf.errors.InvalidArgumentError: bytes that cannot be decoded, or more than `max_pixels`.
        """
        image = tf.convert_to_tensor(image)
        if augmentation is not None and seed is None:
            raise ValueError("augmentation needs a seed, int (2,), so that a resumed run sees the same images.")
        if image.dtype == tf.string and image.shape.rank == 0:
            image = self._decode(image, note=fused if note is None else note)
        if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[2] != 3:
            raise ValueError(
                "Expected image bytes (scalar string) or pixels uint8 (height, width, 3). "
                f"Received: {image.dtype.name} {image.shape}"
            )
        if augmentation is not None:
            image = augmentation.crop(image, seed)
        image = self._resize(image, fused)
        if augmentation is not None:
            image = augmentation.mirror(image, seed)
        return tf.ensure_shape(image, [self.size, self.size, 3])

    @staticmethod
    def normalize(pixels: tf.Tensor) -> tf.Tensor:
        """Maps uint8 (..., 3) to float32 (..., 3) in [-1, 1]. A model does the same to a uint8 batch."""
        # This rounds once, so that every compiler gives the same bits: XLA turns a division into a product.
        return tf.cast(2 * tf.cast(pixels, tf.int32) - 255, tf.float32) * (1.0 / 255.0)

    def __call__(
        self, image: Any, augmentation: Augmentation | None = None, seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns one image as float32 (size, size, 3) in [-1, 1]. Arguments and errors are those of `pixels`."""
        return self.normalize(self.pixels(image, augmentation, seed))

    def to_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, which JSON can hold."""
        names = ("size", "method", "exif", "alpha", "scaled_decoding", "max_pixels")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ImagePreprocessing":
        """Makes a preprocessing from what `to_config` returned."""
        return cls(**config)


class Preprocessing(tf.Module):
    """The preprocessing of a checkpoint: of its images and, if it has a text tower, of its texts.

    It is a `tf.Module`, so that a SavedModel of an object that holds it includes the vocabulary.

    Args:
        image: `ImagePreprocessing`, `NaFlexPreprocessing` for pictures of any shape, or None.
        text: `Tokenizer`, or None.

    Example:
        preprocessing = Preprocessing(ImagePreprocessing(224), Tokenizer.from_file("tokenizer.model", length=64))
        config = preprocessing.to_config(vocabulary=False)
        again = Preprocessing.from_config(config, model_proto=preprocessing.text.model_proto)
    """

    def __init__(self, image: ImagePreprocessing | NaFlexPreprocessing | None, text: Tokenizer | None = None):
        super().__init__(name="preprocessing")
        self.image = image
        self.text = text

    def to_config(self, vocabulary: bool = True) -> dict[str, Any]:
        """Returns a config that JSON can hold.

        Args:
            vocabulary: whether to include the SentencePiece model. Without it, save the model beside the config.
        """
        text = None
        if self.text is not None:
            text = self.text.to_config() if vocabulary else self.text.get_config()
        return {"image": None if self.image is None else self.image.to_config(), "text": text}

    def fixed_image(self, user: str) -> ImagePreprocessing:
        """Returns the preprocessing of images to one size.

        Args:
            user: what needs it, for the error message.

        Raises:
            ValueError: there is no preprocessing of images, or it is a NaFlex model's.
        """
        if isinstance(self.image, ImagePreprocessing):
            return self.image
        received = "no preprocessing of images" if self.image is None else type(self.image).__name__
        raise ValueError(f"{user} needs images of one size: expected an ImagePreprocessing. Received: {received}.")

    @classmethod
    def from_config(cls, config: dict[str, Any], model_proto: bytes | None = None) -> "Preprocessing":
        """Makes a preprocessing from what `to_config` returned.

        Args:
            config: the config.
            model_proto: the SentencePiece model, if the config does not hold it.
        """
        image, text = config.get("image"), config.get("text")
        tokenizer = None
        if text is not None:
            tokenizer = Tokenizer.from_config(text) if model_proto is None else Tokenizer(model_proto, **text)
        if image is not None:
            image = (NaFlexPreprocessing if "max_patches" in image else ImagePreprocessing).from_config(image)
        return cls(image, tokenizer)
