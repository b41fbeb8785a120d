"""Resizes an image in one pass by an operation of this package, which the machine's C compiler builds.

TensorFlow's kernels convert a whole image to floats, transpose it, and resize one axis after the other, so an input
pipeline spends more time on resizing than on decoding. `fused_resize.c` reads the bytes once. It is compiled when it is
first used, in a second or two, and the library stays in the cache folder. Without a C compiler, or on a processor
without AVX2, a message says that TensorFlow's operations are used instead. A SavedModel must not hold the operation,
so only input pipelines use it. The environment variable SIGLIP_TF_RESIZE=tensorflow turns it off, for workers that
must all resize in the same way.
"""

import functools
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Callable

import tensorflow as tf

from siglip_tf.cache import cache_folder
from siglip_tf.storage import new_file

_SOURCE = pathlib.Path(__file__).with_suffix(".c")
# Without contraction, each product and each sum is rounded, as in TensorFlow.
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
# The order of the C source's `Method`.
_METHODS = ("big_vision", "bicubic", "bilinear")

_logger = logging.getLogger(__name__)


def _compiler() -> str | None:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    return None


def _processor() -> str:
    """Describes what `-march=native` means here, because different machines may share a home folder."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = [line for line in lines if line.partition(":")[0].strip() in ("model name", "flags", "Features", "CPU part")]
    return "\n".join(dict.fromkeys([platform.machine(), *told]))


def _build(compiler: str) -> pathlib.Path:
    """Returns the library's path. Builds it unless it exists for this source, compiler, processor, and TensorFlow."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, text=True).stdout
    digest = hashlib.sha256(_SOURCE.read_bytes())
    digest.update("\n".join([version, *_FLAGS, tf.__version__, _processor()]).encode())
    library = cache_folder("operations") / f"fused_resize-{digest.hexdigest()[:32]}.so"
    if library.exists():
        return library
    with new_file(library) as aside:
        headers, link = tf.sysconfig.get_include(), tf.sysconfig.get_link_flags()
        command = [compiler, *_FLAGS, f"-I{headers}", str(_SOURCE), "-o", aside, *link, "-lm"]
        subprocess.run(command, capture_output=True, check=True, text=True)
    return library


@functools.cache
def _operation() -> Callable[..., tf.Tensor] | None:
    """Returns the operation, or None if it cannot be built. The reason is logged once."""
    if os.environ.get("SIGLIP_TF_RESIZE") == "tensorflow":
        return None
    compiler = _compiler()
    if compiler is None:
        reason = "no C compiler was found (CC, cc, gcc, clang); install one"
    else:
        try:
            return tf.load_op_library(str(_build(compiler))).siglip_tf_fused_resize
        except subprocess.CalledProcessError as error:
            reason = f"{compiler} failed: {error.stderr.strip()[-500:]}"
        except (OSError, tf.errors.OpError) as error:
            reason = str(error)
    _logger.warning(
        "Images are resized by TensorFlow's own operations, at about half the speed of a pipeline: %s", reason
    )
    return None


def can_fuse() -> bool:
    """Says whether `fused_resize` works on this machine. The first call builds it and logs why it fails."""
    return _operation() is not None


def fused_resize(image: tf.Tensor, size: int, method: str) -> tf.Tensor:
    """Resizes an image to a square in one pass and one thread. Call it for many images in parallel.

    Args:
        image: uint8 (height, width, 3).
        size: height and width of the result, in pixels, at most 16,384.
        method: "big_vision" is bilinear without antialias, truncated to bytes, like `tf.raw_ops.ResizeBilinear` with
            `half_pixel_centers`; "bicubic" and "bilinear" are like `PIL.Image.resize`. All are equal bit for bit.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ValueError: `can_fuse` is False.
        tf.errors.InvalidArgumentError: an image without pixels.
    """
    operation = _operation()
    if operation is None:
        raise ValueError("The operation could not be built here; `can_fuse` tells.")
    return tf.ensure_shape(operation(image=image, size=size, method=_METHODS.index(method)), [size, size, 3])
