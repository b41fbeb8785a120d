"""What makes a step on CPU faster, outside the model: oneDNN's matrix products, and memory that is kept.

TensorFlow turns oneDNN on by itself on processors with AVX512-VNNI, AVX-VNNI, AMX and the like. On processors that have
AVX2 and none of these it leaves oneDNN off, which makes a training step slower (docs/gpu.md has the figures). It reads
the switch once, when it is imported. So `import siglip_tf` calls `use_onednn` before it imports TensorFlow, and this
module imports the standard library alone.

glibc gives the memory of large tensors back to the system when a step frees them, and the system clears every page when
the next step asks again. `keep_memory` lets it keep them.
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

SWITCH = "TF_ENABLE_ONEDNN_OPTS"
# TensorFlow turns oneDNN on by itself where a processor has one of these (`IsMKLEnabled` in tsl/util/port.cc).
_ON_BY_ITSELF = {
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "avx_vnni_int8",
    "avx_ne_convert",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
}
# M_MMAP_MAX: no block is a mapping of its own; M_TRIM_THRESHOLD: nothing is given back (malloc.h).
_KEEP = ((-4, 0), (-1, (1 << 31) - 1))
_turned_on: set[str] = set()


def use_onednn() -> bool:
    """Sets `TF_ENABLE_ONEDNN_OPTS=1` where it helps; returns whether it did.

    It does nothing where the variable is set to any value, where TensorFlow has been imported already, and on a
    processor that does not gain or is not known.
    """
    if SWITCH in os.environ or "tensorflow" in sys.modules or not _gains(_processor_flags()):
        return False
    os.environ[SWITCH] = "1"
    _turned_on.add(SWITCH)
    return True


def notice() -> str | None:
    """One line for people if `use_onednn` turned the switch on in this process, else None."""
    if not _turned_on:
        return None
    return f"{SWITCH}=1: this processor trains faster with oneDNN. Set {SWITCH}=0 to leave it off."


def keep_memory() -> bool:
    """Lets this process keep the memory that it frees; returns whether it does.

    On two cores a step of the quickstart's model is about twice as fast by this. The process never becomes smaller than
    it was at its largest. It does nothing with another C library than glibc, or where the environment tunes malloc.
    """
    tuned = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    if tuned or "GLIBC_TUNABLES" in os.environ or sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = [mallopt(option, value) for option, value in _KEEP]
    return all(taken)


def _gains(flags: set[str]) -> bool:
    return {"avx2", "fma"} <= flags and not flags & _ON_BY_ITSELF


def _processor_flags() -> set[str]:
    """Features of this processor as the Linux kernel names them; empty where they cannot be known."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return set()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())
