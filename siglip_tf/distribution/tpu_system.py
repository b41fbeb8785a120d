"""Connects to a TPU, and explains each way in which that fails in one sentence.

The TPU is the one that `TPU_NAME` names, if Cloud or a user sets it (a name, or "grpc://host:port"), or else the chips
of this machine. On a machine without Cloud's metadata server, libtpu would try to reach the server for minutes, so
`skip_metadata_server` turns that off.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

import tensorflow as tf

_PCI = Path("/sys/bus/pci/devices")
_GOOGLE = "0x1ae0"
# Device ids of TPU v2 and v3, v4, v5p, v5e, v6e, and 7x, from jax's hardware_utils.
_TPU_DEVICES = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
_PRODUCT = Path("/sys/class/dmi/id/product_name")


class TPUError(ValueError):
    """A TPU cannot be used. The message says why, and what to do."""


def attached_chips(pci: Path = _PCI) -> int:
    """Counts this machine's TPU chips on its PCI bus, without a library."""
    return sum(_id(card / "vendor") == _GOOGLE and _id(card / "device") in _TPU_DEVICES for card in pci.glob("*"))


def _id(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def is_cloud_machine(product: Path = _PRODUCT) -> bool:
    """Says whether this is a Google Compute Engine machine, which has a metadata server."""
    return product.exists() and product.read_text().strip() == "Google Compute Engine"


def skip_metadata_server(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keeps libtpu from calling a metadata server that does not exist. Call it before TensorFlow looks for devices."""
    if not is_cloud_machine():
        environment.setdefault("TPU_SKIP_MDS_QUERY", "1")
        environment.setdefault("TPU_ACCELERATOR_TYPE", "v4-8")
        environment.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def has_tpu(environment: Mapping[str, str] = os.environ) -> bool:
    """Says whether a TPU is named by `TPU_NAME` or attached to this machine.

    Raises:
        TPUError: chips are attached, but TensorFlow cannot use them.
    """
    skip_metadata_server()
    if environment.get("TPU_NAME") or tf.config.list_physical_devices("TPU"):
        return True
    if chips := attached_chips():
        raise TPUError(
            f"This machine has {chips} TPU chips, and TensorFlow {tf.__version__} finds none of them. Either another "
            "process holds them, or the stock tensorflow package is installed where tensorflow-tpu is needed: see "
            "docs/tpu.md, and python -m tools.tpu_host --check."
        )
    return False


def connect(name: str | None = None) -> tf.distribute.TPUStrategy:
    """Connects to a TPU, and returns its strategy.

    Args:
        name: the TPU's name, its address "grpc://host:port", or "local" for this machine's chips. The default is
            `TPU_NAME`, or "local" if that is not set.

    Raises:
        TPUError: there is no TPU, it is in use, or it cannot be reached.
    """
    skip_metadata_server()
    name = name or os.environ.get("TPU_NAME") or "local"
    try:
        return tf.distribute.TPUStrategy(tf.distribute.cluster_resolver.TPUClusterResolver.connect(name))
    except (tf.errors.OpError, RuntimeError, ValueError, ImportError, OSError) as error:
        raise TPUError(explain(error, name)) from error


_NO_CHIPS_HERE = (
    "This machine has no TPU chips, or TensorFlow cannot use them: run this on a TPU host with tensorflow-tpu "
    "installed (docs/tpu.md), or name a TPU by TPU_NAME."
)
_NO_SYSTEM = "The host of TPU {name!r} has no TPU system: check its name, that it is ready, and its runtime version."
# Patterns in error messages, and what the errors mean. {0} and so on are the groups of the pattern.
_MEANINGS = (
    (
        r"already in use by process with pid (\d+)",
        "The TPU is in use by process {0}: end it, or wait until it ends, as one process at a time may use the chips.",
    ),
    (
        r"already in use by another process",
        "The TPU is in use by a process of another user: wait until it ends. One process at a time may use the chips.",
    ),
    (
        r"lockfile",
        "libtpu's lock /tmp/libtpu_lockfile is held by another process or left behind by one: end the process that "
        "uses the TPU, and remove the file if there is none (sudo rm /tmp/libtpu_lockfile).",
    ),
    (r"global TPU topology|TPUs not found|TPU_SYSTEM|[Nn]o TPU (?:devices|platform)", None),
    (
        r"metadata|googleapis|google-api-python-client|credentials",
        "TPU_NAME={name!r} can be looked up on Google Cloud alone: on another machine set it to the address of the "
        "TPU's first host, grpc://HOST:PORT, or unset it to use this machine's chips.",
    ),
    (
        r"failed to connect|Connection refused|UNAVAILABLE|DNS|timed out",
        "TPU {name!r} does not answer: check that its hosts run and that this machine reaches them.",
    ),
)


def explain(error: Exception | str, name: str = "local") -> str:
    """Explains in one sentence what an error of TensorFlow or libtpu means, and what to do."""
    text = str(error)
    for pattern, meaning in _MEANINGS:
        if found := re.search(pattern, text):
            meaning = meaning or (_NO_CHIPS_HERE if name == "local" else _NO_SYSTEM)
            return meaning.format(*found.groups(), name=name)
    return f"TensorFlow cannot use TPU {name!r}: {text.splitlines()[0][:300] if text else type(error).__name__}"


def input_hosts(strategy: tf.distribute.Strategy) -> int:
    """Returns on how many hosts the strategy's data sets run: 1 for every strategy except TPUStrategy."""
    return strategy.extended.num_hosts if isinstance(strategy, tf.distribute.TPUStrategy) else 1


def is_remote(strategy: tf.distribute.Strategy) -> bool:
    """Says whether a runtime in another process, without this project's ops, makes the batches."""
    if not isinstance(strategy, tf.distribute.TPUStrategy):
        return False
    jobs = {tf.DeviceSpec.from_string(device).job for device in strategy.extended.worker_devices}
    return input_hosts(strategy) > 1 or not jobs <= {None, "localhost"}
