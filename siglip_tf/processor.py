"""Process settings that make steps on a CPU faster: oneDNN's matrix products, and keeping freed memory.

TensorFlow itself enables oneDNN on processors with AVX512-VNNI, AVX-VNNI, AMX, and similar features. On processors with
AVX2 and none of these, it leaves oneDNN off, which makes a training step slower (docs/gpu.md has the figures). It reads
the switch once, when it is imported. Therefore `import siglip_tf` calls `use_onednn` before it imports TensorFlow, and
this module imports only the standard library.

glibc returns the memory of large tensors to the system when a step frees them, and the system clears every page when
the next step allocates it again. With `keep_memory`, glibc keeps the memory.
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

SWITCH = "TF_ENABLE_ONEDNN_OPTS"
# TensorFlow itself enables oneDNN if the processor has one of these features (`IsMKLEnabled` in tsl/util/port.cc).
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
# M_MMAP_MAX = 0: no block gets its own mapping. M_TRIM_THRESHOLD = largest: nothing is returned (malloc.h).
_KEEP = ((-4, 0), (-1, (1 << 31) - 1))
_turned_on: set[str] = set()


def use_onednn() -> bool:
    """Sets `TF_ENABLE_ONEDNN_OPTS=1` if it helps, and returns whether it did.

    It does nothing if the variable is already set, if TensorFlow is already imported, or if the processor does not
    benefit or is unknown.
    """
    if SWITCH in os.environ or "tensorflow" in sys.modules or not _gains(_processor_flags()):
        return False
    os.environ[SWITCH] = "1"
    _turned_on.add(SWITCH)
    return True


def notice() -> str | None:
    """Returns a line of text for the user if `use_onednn` set the switch in this process, else None."""
    if not _turned_on:
        return None
    return f"{SWITCH}=1: this processor trains faster with oneDNN. Set {SWITCH}=0 to leave it off."


def keep_memory() -> bool:
    """Makes this process keep the memory that it frees, and returns whether it does.

    On two cores, this makes a step of the quickstart's model about twice as fast. The process keeps its largest size.
    This does nothing if the C library is not glibc, or if environment variables configure malloc.
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
    """Returns this processor's features with the names of the Linux kernel, or an empty set if they are unknown."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return set()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())
