"""Runs the TPU compiler without a TPU. It returns the memory, the optimized HLO, and the kernels' schedules.

The compiler runs in separate processes (`_compile_worker.py`), because libtpu reads its settings when it is loaded.
Results are cached by content under `$XDG_CACHE_HOME/siglip_tf/tpu` (`~/.cache` by default), so that a program is
compiled only once for a topology and a version of the compiler.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from siglip_tf.cache import cache_folder
from siglip_tf.tpu.lowering import fingerprint
from siglip_tf.tpu.topology import Topology

INSTALL = "The TPU compiler is not installed; it needs no TPU: pip install 'siglip-tf[compiler]'"
_WORKER = pathlib.Path(__file__).with_name("_compile_worker.py")
_KERNEL = re.compile(
    r"stablehlo\.custom_call @tpu_custom_call\(([^)]*)\) (\{.*\}) : (\([^)]*\)) -> (.*?)(?: loc\(.*)?$"
)

Progress = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiler's result for a program and a topology.

    Attributes:
        topology: the slice.
        replicas: number of chips that run the program, with one replica each.
        memory: bytes on one chip for "argument", "output", "alias", "temp", and "peak". None if it does not fit.
        refusal: the compiler's message if the program does not fit, else None.
        hlo: the text of the optimized module, or "" if it does not fit.
        kernels: cycles per call of each distinct kernel (`tpu_custom_call`), by the hash of its configuration.
        seconds: the duration of the compilation in seconds.
    """

    topology: Topology
    replicas: int
    memory: dict[str, int] | None
    refusal: str | None
    hlo: str
    kernels: dict[str, int]
    seconds: float

    @property
    def fits(self) -> bool:
        return self.refusal is None


def compile_module(
    module: str, topology: Topology, replicas: int | None = None, progress: Progress | None = None
) -> Compiled:
    """Compiles the text of a StableHLO module for a topology.

    Args:
        module: the text of the module. See `lowering.lower`.
        topology: the slice.
        replicas: number of chips that run the program. The default is all chips of the slice.
        progress: a function that is called a few times per second with the elapsed seconds.

    Raises:
        ImportError: if the compiler is not installed.
        ValueError: if there are more replicas than chips.
        RuntimeError: if the compiler refuses the program for a reason other than memory, with the compiler's message.
    """
    replicas = replicas or topology.chips
    if replicas > topology.chips:
        raise ValueError(f"Expected at most the {topology.chips} chips of {topology.name}. Received: {replicas}.")
    result, hlo = _cached(module, topology, replicas, progress, schedule=False)
    kernels = {}
    if result["refusal"] is None:
        for name, alone in kernel_modules(module).items():
            schedule, _ = _cached(alone, topology, 1, progress, schedule=True)
            kernels[name] = schedule["cycles"]
    return Compiled(
        topology=topology,
        replicas=replicas,
        memory=result["memory"],
        refusal=result["refusal"],
        hlo=hlo,
        kernels=kernels,
        seconds=result["seconds"],
    )


def kernel_modules(module: str) -> dict[str, str]:
    """Returns the text of a separate module for each distinct kernel of a module, by its `kernel_name`."""
    found: dict[str, str] = {}
    for line in module.splitlines():
        match = _KERNEL.search(line) if "@tpu_custom_call" in line else None
        if match is None:
            continue
        _, attributes, arguments, results = match.groups()
        name = kernel_name(attributes)
        if name in found:
            continue
        found[name] = _module_of_call(attributes, arguments, results)
    return found


def kernel_name(text: str) -> str:
    """Returns a short hash of the kernel's body in StableHLO attributes or in an HLO line. Equal kernels are equal."""
    body = re.search(r'body(?:\\22|")\s*:\s*(?:\\22|")([A-Za-z0-9+/=]+)', text)
    return hashlib.sha256(body[1].encode()).hexdigest()[:16] if body else ""


def _module_of_call(attributes, arguments, results):
    types = re.findall(r"tensor<[^>]*>", arguments)
    given = ", ".join(f"%arg{i}: {t}" for i, t in enumerate(types))
    names = ", ".join(f"%arg{i}" for i in range(len(types)))
    returned = re.findall(r"tensor<[^>]*>", results)
    lines = [f"%0 = stablehlo.custom_call @tpu_custom_call({names}) {attributes} : {arguments} -> {results}"]
    values = ["%0"]
    if results.startswith("tuple<"):
        values = [f"%{i + 1}" for i in range(len(returned))]
        lines += [
            f"{value} = stablehlo.get_tuple_element %0[{i}] : ({results}) -> {kind}"
            for i, (value, kind) in enumerate(zip(values, returned, strict=True))
        ]
    lines.append(f"return {', '.join(values)} : {', '.join(returned)}")
    body = "\n    ".join(lines)
    return f"module @kernel {{\n  func.func public @main({given}) -> ({', '.join(returned)}) {{\n    {body}\n  }}\n}}\n"


def kernel_of_attention(topology: Topology, tokens: int = 16, heads: int = 2, head_size: int = 64) -> int:
    """Compiles a small attention kernel from jax for a TPU, and returns the cycles of one call.

    Raises:
        ImportError: if jax or the compiler is not installed.
        RuntimeError: if the compiler refuses the kernel of this version of jax, with the compiler's message.
    """
    from siglip_tf.primitives import attention_kernel

    shape = attention_kernel.Shape(8 * tokens, tokens, heads, head_size, "bfloat16")
    # MLIR writes a string in the same way as JSON, except that it writes quotation marks as hexadecimal codes.
    config = json.dumps(attention_kernel.backend_config(shape, "forward"))[1:-1].replace('\\"', "\\22")
    kind = f"tensor<{shape.rows}x{shape.width}xbf16>"
    attributes = f'{{backend_config = "{config}", has_side_effect = false}}'
    module = _module_of_call(attributes, f"({', '.join([kind] * 3)})", kind)
    result, _ = _cached(module, topology, 1, None, schedule=True)
    return result["cycles"]


def compiler_version() -> str:
    """Returns the versions of the compiler's packages, such as "jax 0.10.2, libtpu 0.0.42.1".

    Raises:
        ImportError: if a package is not installed.
    """
    try:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu"))
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(INSTALL) from error


def _cached(module, topology, replicas, progress, schedule):
    key = hashlib.sha256(
        json.dumps(
            [fingerprint(module), topology.name, replicas, schedule, compiler_version(), _worker_version()]
        ).encode()
    ).hexdigest()
    folder = cache_folder("tpu") / key[:2] / key
    if not (folder / "result.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run(module, topology, replicas, folder, progress, schedule)
    result = json.loads((folder / "result.json").read_text())
    hlo = folder / "hlo.txt.gz"
    return result, gzip.decompress(hlo.read_bytes()).decode() if hlo.exists() else ""


def _worker_version():
    return hashlib.sha256(_WORKER.read_bytes() + _WORKER.with_name("jax_internals.py").read_bytes()).hexdigest()


def _run(module, topology, replicas, folder, progress, schedule):
    with tempfile.TemporaryDirectory(prefix="tpu_compile_") as work:
        work = pathlib.Path(work)
        (work / "module.mlir").write_text(module)
        request = {
            "module": str(work / "module.mlir"),
            "topology": topology.name,
            "topology_options": topology.options,
            "accelerator_type": topology.chip.accelerator,
            "replicas": replicas,
            "schedule": str(work / "schedule") if schedule else None,
            "hlo": str(folder / "hlo.txt.gz"),
            "result": str(folder / "result.json"),
        }
        (work / "request.json").write_text(json.dumps(request))
        started = time.monotonic()
        with open(work / "log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, str(_WORKER), str(work / "request.json")], stdout=log, stderr=subprocess.STDOUT
            )
            try:
                while process.poll() is None:
                    if progress:
                        progress(time.monotonic() - started)
                    time.sleep(0.2)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if process.returncode:
            text = (work / "log").read_text()
            said = re.findall(r"^\S*Error: .*(?:\n(?! {2}File).*){0,20}", text, flags=re.M)
            raise RuntimeError(f"The TPU compiler failed for {topology.name}:\n{(said or [text])[-1][-4000:]}")
