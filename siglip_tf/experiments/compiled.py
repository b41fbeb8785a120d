"""A cache of the TPU compiler's reports on this machine. Its keys are the settings and the source code.

Tracing and lowering a step take minutes before the compiler's own cache can help. With this cache, a plan that was made
before is shown at once.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import siglip_tf
from siglip_tf import tpu
from siglip_tf.cache import cache_folder
from siglip_tf.source_digest import source_digest
from siglip_tf.storage import write_file

# Packages whose source decides the program that is compiled.
_PACKAGES = ("primitives", "distribution", "losses", "models", "optimizers", "tpu")


def kept_report(folder: str, decides: Any) -> Path:
    """Returns the path of a program's report, which may not exist yet.

    Args:
        folder: the folder for this kind of plan, such as "plans".
        decides: everything that determines the program except the source code, as JSON values.
    """
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode())
    digest.update(_source())
    return cache_folder(folder) / f"{digest.hexdigest()}.json"


@functools.cache
def _source() -> bytes:
    packages = (Path(siglip_tf.__file__).parent / package for package in _PACKAGES)
    return source_digest(file for package in packages for file in sorted(package.glob("*.py"))).encode()


def keep(path: Path, program: Callable[[], tpu.Subject], topology: tpu.Topology, batch: int) -> None:
    """Compiles a program and writes `Report.to_dict()` as JSON. This takes minutes."""
    report = tpu.report(program, topology, batch).to_dict()
    write_file(path, json.dumps(report))
