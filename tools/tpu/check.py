"""The steps of `python -m tools.tpu_host --check`, from the installation to the search for chips.

The check does not need a chip. If libtpu lacks a name, TensorFlow ends the process when it is imported. Therefore the
names are compared first, and TensorFlow is imported in another process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_PACKAGES = ("tensorflow-tpu", "tensorflow", "tensorflow-text", "keras", "jax", "jaxlib", "libtpu")
_MISSING = b" not available in this library"
_LONGEST_NAME = 200
_FIND = (
    "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); "
    "print(*(name for name in sys.stdin.read().split() if not hasattr(library, name)))"
)
# The module that runs the steps that import TensorFlow, in a clone and in an installed wheel.
_STEPS = f"{__package__}.check"


class CheckFailedError(Exception):
    """Raised if a step fails. The message says what to do."""


def check(say: Callable[[str], None] = print) -> int:
    """Runs all steps. Returns 0 if the installation is correct, even if there are no chips."""
    try:
        for name, step in (("versions", _versions), ("libtpu's names", _names)):
            say(f"{name}: {step()}")
    except CheckFailedError as failure:
        say(f"{name}: {failure}")
        return 1
    return _in_another_process(say)


def _versions() -> str:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    wrong = [f"{requirement} (found {found.get(name, 'none')})" for name, requirement in _unmet(found)]
    listed = ", ".join(f"{name} {version}" for name, version in found.items())
    if wrong:
        raise CheckFailedError(f"{listed}. Expected {', '.join(wrong)}: pip install 'siglip-tf[tpu]', see docs/tpu.md.")
    return listed


def _unmet(found: dict[str, str]) -> list[tuple[str, str]]:
    """Returns the requirements of the extra `tpu` that the installed versions do not meet."""
    from packaging.requirements import Requirement

    try:
        required = importlib.metadata.requires("siglip-tf") or []
    except importlib.metadata.PackageNotFoundError:
        return [("siglip-tf", "siglip-tf itself: pip install -e '.[tpu]'")]
    requirements = [Requirement(text) for text in required]
    return [
        (r.name, f"{r.name}{r.specifier}")
        for r in requirements
        if r.marker is not None
        and r.marker.evaluate({"extra": "tpu"})
        and not r.marker.evaluate({"extra": ""})
        and not (r.name in found and r.specifier.contains(found[r.name]))
    ]


def _names() -> str:
    tensorflow, libtpu = (importlib.util.find_spec(name) for name in ("tensorflow", "libtpu"))
    if tensorflow is None or libtpu is None:
        raise CheckFailedError("tensorflow or libtpu is not installed: see docs/tpu.md.")
    core = Path(tensorflow.origin).with_name("libtensorflow_cc.so.2")
    library = Path(libtpu.origin).with_name("libtpu.so")
    wanted = looked_up(core)
    if not wanted:
        raise CheckFailedError(
            "this TensorFlow has no TPU runtime: the stock tensorflow package has overwritten tensorflow-tpu. "
            "pip uninstall -y tensorflow && pip install --force-reinstall --no-deps 'tensorflow-tpu==2.20.*'"
        )
    if lacking := missing_names(library, wanted):
        raise CheckFailedError(
            f"libtpu lacks {', '.join(lacking)}, without which TensorFlow ends the process at import. "
            "pip install 'siglip-tf[tpu]' has a libtpu that has it."
        )
    return f"all {len(wanted)} that TensorFlow looks up are there"


def looked_up(core: Path) -> list[str]:
    """Returns the names that a TensorFlow library looks up in libtpu. It contains an error message for each of them."""
    names = set()
    with open(core, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.find(_MISSING)
        while end >= 0:
            name = re.search(rb"\w*$", content[max(0, end - _LONGEST_NAME) : end])[0]
            names.add(name.decode())
            end = content.find(_MISSING, end + 1)
    return sorted(names - {""})


def missing_names(library: Path, names: list[str]) -> list[str]:
    """Returns the names that a shared library does not have."""
    command = [sys.executable, "-c", _FIND, str(library)]
    done = subprocess.run(command, input="\n".join(names), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckFailedError(f"{library} cannot be loaded: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.split()


def _in_another_process(say: Callable[[str], None]) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", _STEPS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    )
    out, log = process.communicate()
    failed = process.returncode
    said = 0
    for line in out.splitlines():
        if line.startswith("{"):
            step = json.loads(line)
            say(f"{step['name']}: {step['text']}")
            said += 1
    if said < len(_steps()) and (failed or not said):
        fatal = [line for line in log.splitlines() if re.match(r"F\d{4}|F0000|.*Fatal|.*Error", line)]
        text = (fatal or log.strip().splitlines() or ["no message"])[-1]
        if not out.rstrip().endswith('"failed": true}'):
            say(f"{list(_steps())[said]}: the process ended: {text[:400]}")
        return 1
    return 0


def _environment() -> dict[str, str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "1", "JAX_PLATFORMS": "cpu"}
    return environment


def _steps() -> dict[str, Callable[[], str]]:
    return {
        "import tensorflow": _import,
        "tensorflow-text": _text,
        "attention kernel": _kernel,
        "chips": _chips,
    }


def _import() -> str:
    import tensorflow as tf

    return f"{tf.__version__}, built for TPU hosts"


def _text() -> str:
    from siglip_tf.data import Tokenizer
    from siglip_tf.data.text.training import train_tokenizer

    captions = [f"a photo of {n} dogs and {m} cats" for n in range(20) for m in range(20)]
    ids = Tokenizer(train_tokenizer(captions, 60), 8)(captions[:1]).numpy()
    return f"{importlib.metadata.version('tensorflow-text')}, its SentencePiece makes {ids.shape[1]} ids of a caption"


def _kernel() -> str:
    from siglip_tf.tpu.compiler import compiler_version, kernel_of_attention
    from siglip_tf.tpu.topology import Topology

    cycles = kernel_of_attention(Topology("v4:2x2x1"))
    return f"written by jax and accepted by libtpu's compiler ({compiler_version()}), {cycles:,} cycles"


def _chips() -> str:
    from siglip_tf.distribution.tpu_system import TPUError, attached_chips, connect

    if not attached_chips():
        try:
            connect("local")
        except TPUError as error:
            return f"none, which is where a machine without them stops: {error}"
    strategy = connect("local")
    return f"{strategy.num_replicas_in_sync} replicas"


def main() -> int:
    """Runs the steps that import TensorFlow, and prints one JSON line for each."""
    from siglip_tf.distribution.tpu_system import attached_chips, skip_metadata_server

    skip_metadata_server()
    if not attached_chips():
        os.environ["TPU_LOAD_LIBRARY"] = "1"  # without chips, another process' lock does not matter
    for name, step in _steps().items():
        try:
            text, failed = step(), False
        except Exception as error:  # report any error to the user
            text, failed = f"{type(error).__name__}: {str(error)[:600]}", True
        print(json.dumps({"name": name, "text": text, "failed": failed}), flush=True)
        if failed:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
