"""The synthetic data set as a source. It is endless, has a seed, and draws its pictures when they are read."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import random
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.synthetic.captions import caption, grammar_of
from siglip_tf.synthetic.composition import SPLITS, Scene, compose
from siglip_tf.synthetic.crowded import compose_crowded
from siglip_tf.synthetic.crowded_captions import crowded_caption
from siglip_tf.synthetic.drawing import draw
from siglip_tf.synthetic.web_noise import EMPTY, GENERIC, GENERIC_CAPTIONS, MISMATCHED, WebNoise

UNLIMITED = 2**40
# For each level, a function that composes a scene and a function that writes its caption.
LEVELS = {"simple": (compose, caption), "crowded": (compose_crowded, crowded_caption)}
_DRAWING = 3  # increase it with every change of pictures or captions, so that stored copies become invalid
_MIN_IMAGE_SIZE, _MAX_IMAGE_SIZE = 32, 256
_JPEG_QUALITY = 92


@dataclasses.dataclass(frozen=True)
class SceneExample:
    """One example outside of a TensorFlow graph. `scene` is the content of the picture."""

    image: bytes
    captions: tuple[str, ...]
    languages: tuple[str, ...]
    id: str
    label: int
    scene: Scene


class SceneSource(Source):
    """Drawn scenes with captions. Example i depends only on the arguments and on i.

    Each example has `captions` captions in each language, language by language. "label" is the index of the subject's
    (color, shape) in `COMPOSITIONS`, or an index in `CROWDED_COMPOSITIONS` at the crowded level.

    Args:
        split: "train", "validation" (other scenes of the same compositions), or "test" (held-out compositions).
        size: number of examples. The default is 2^40.
        seed: the seed of the data set.
        languages: language codes from `LANGUAGES`.
        captions: number of captions per image in each language.
        image_size: height and width of the pictures in pixels, 32 to 256.
        level: "simple", or "crowded" for scenes with several equal objects and other objects that share attributes.
        noise: faults of the captions, or None for captions without faults.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        split: str = "train",
        size: int = UNLIMITED,
        seed: int = 0,
        languages: Sequence[str] = ("en",),
        captions: int = 4,
        image_size: int = 64,
        level: str = "simple",
        noise: WebNoise | None = None,
    ):
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}. Received: {split!r}")
        if not 1 <= size <= UNLIMITED:
            raise ValueError(f"size must be between 1 and 2^40 examples. Received: {size}")
        if captions < 1 or not languages:
            raise ValueError(f"An image needs a caption. Received: captions={captions} in languages={languages}")
        if not _MIN_IMAGE_SIZE <= image_size <= _MAX_IMAGE_SIZE:
            raise ValueError(f"image_size must be {_MIN_IMAGE_SIZE} to {_MAX_IMAGE_SIZE}. Received: {image_size}")
        for language in languages:
            grammar_of(language)
        if level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}. Received: {level!r}")
        self.split = split
        self.size = size
        self.seed = seed
        self.languages = tuple(languages)
        self.captions = captions
        self._languages = tuple(language for language in languages for _ in range(captions))
        self.image_size = image_size
        self.level = level
        self.noise = noise
        self._compose, self._caption = LEVELS[level]
        self.name = f"scenes/{split}"
        self.fingerprint = fingerprint_of("scenes", _DRAWING, split, size, seed, self.languages, captions, image_size)
        if level != "simple" or noise is not None:
            self.fingerprint = fingerprint_of(self.fingerprint, level, noise and dataclasses.astuple(noise))

    def example(self, index: int) -> SceneExample:
        """Draws example `index` in Python.

        Raises:
            IndexError: if `index` is outside [0, size).
        """
        scene, texts, generator = self._worded(index)
        if (shown := self.picture_of(index)) != index:
            scene, _, generator = self._worded(shown)
        pixels = draw(scene, generator, self.image_size)
        return SceneExample(
            encode_jpeg(pixels), texts, self._languages, f"{self.split}-{index:09d}", scene.label, scene
        )

    def texts(self, index: int) -> tuple[str, ...]:
        """Returns the captions of example `index` without its picture, for training a tokenizer."""
        return self._worded(index)[1]

    def _worded(self, index: int) -> tuple[Scene, tuple[str, ...], random.Random]:
        """Returns the scene, the captions, and the generator for the drawing."""
        if not 0 <= index < self.size:
            raise IndexError(f"Example {index} of {self.name}, which holds {self.size}.")
        generator = _generator(self.seed, self.split, index)
        scene = self._compose(generator, self.split)
        shown = scene
        if (picture := self.picture_of(index)) != index:
            shown = self._compose(_generator(self.seed, self.split, picture), self.split)
        return scene, self._texts(index, shown, generator), generator

    def picture_of(self, index: int) -> int:
        """Returns the example whose picture example `index` shows: `index` unless noise repeats another picture."""
        if self.noise is None:
            return index
        return self.noise.picture(index, _generator(self.seed, f"{self.split}/picture", index))

    def _texts(self, index: int, scene: Scene, generator: random.Random) -> tuple[str, ...]:
        """Returns a caption of the scene for each entry of `_languages`, with the faults of the noise."""
        texts = []
        faults = None if self.noise is None else _generator(self.seed, f"{self.split}/noise", index)
        for language in self._languages:
            text = self._caption(scene, generator, language)
            fault = None if faults is None else self.noise.fault(faults)
            if fault == MISMATCHED:
                text = self._caption(self._compose(faults, self.split), faults, language)
            elif fault == GENERIC:
                text = faults.choice(GENERIC_CAPTIONS)
            elif fault == EMPTY:
                text = ""
            texts.append(text)
        return tuple(texts)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns one encoded example in a TensorFlow graph. See `Source.read`."""
        types = (tf.string, tf.string, tf.string, tf.int32)
        image, captions, name, label = tf.numpy_function(self._read, [index], types, stateful=False)
        count = len(self._languages)
        return {
            "image": tf.ensure_shape(image, []),
            "captions": tf.ensure_shape(captions, [count]),
            "language": tf.constant(self._languages),
            "id": tf.ensure_shape(name, []),
            "label": tf.ensure_shape(label, []),
        }

    def _read(self, index: np.ndarray) -> tuple[bytes, np.ndarray, bytes, np.int32]:
        example = self.example(int(index))
        captions = np.array([text.encode() for text in example.captions], object)
        return example.image, captions, example.id.encode(), np.int32(example.label)

    def locate(self, index: int) -> tuple[str, int]:
        """Returns the name of the data set and the example's number in it."""
        return f"{self.name} (seed {self.seed})", index


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encodes pixels, uint8 (height, width, 3), as JPEG. Colors have full resolution because objects are small."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _generator(seed: int, split: str, index: int) -> random.Random:
    """Returns a separate generator for each example, so that any example can be drawn without the others."""
    digest = hashlib.blake2b(f"{seed}/{split}/{index}".encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest))
