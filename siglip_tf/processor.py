"""The processor's own switch: oneDNN's matrix products where TensorFlow leaves them off although they are faster.

TensorFlow turns oneDNN on by itself on processors with AVX512-VNNI, AVX-VNNI, AMX and the like. On processors that have
AVX2 and none of these it leaves oneDNN off, which makes a training step slower (docs/gpu.md has the figures). It reads
the switch once, when it is imported. So `import siglip_tf` calls `use_onednn` before it imports TensorFlow, and this
module imports the standard library alone.
"""

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
