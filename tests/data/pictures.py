"""Pictures that tests make, and Pillow as the oracle of resizing."""

import io

import numpy as np
from PIL import Image


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth image with edges in it, RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (max(height // 8, 1), max(width // 8, 1), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def pillow_resize(image: Image.Image, size: int, resample=Image.Resampling.BICUBIC) -> np.ndarray:
    """Pillow 13's order of axes spelled out, so that an older Pillow is the same oracle."""
    height_first = image.height > size and image.height - size > 2 * (image.width - size)
    between = (image.width, size) if height_first else (size, image.height)
    return np.asarray(image.resize(between, resample).resize((size, size), resample)).astype(np.int32)
