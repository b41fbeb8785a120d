"""Compiles one StableHLO module for a TPU topology, in a process that imports neither TensorFlow nor this package.

usage: python _compile_worker.py REQUEST.json

The request names the module's file, the topology and where the result goes; `compiler.py` is the only caller.
"""

import glob
import gzip
import json
import math
import os
import re
import sys
import time

# Before libtpu is loaded: no metadata server is asked, and several processes may compile at once.
os.environ.update(
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    JAX_PLATFORMS="cpu",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)
_MEMORY = ("argument", "output", "alias", "temp", "generated_code")


def main(request_path):
    with open(request_path) as file:
        request = json.load(file)
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", request["accelerator_type"])
    if request["schedule"]:
        os.makedirs(request["schedule"])
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={request['schedule']} --xla_jf_dump_llo_text=true"
    import jax_internals  # beside this file, which is run as a script
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=request["topology"], **request["topology_options"]
    ).devices
    replicas = request["replicas"]
    if len(devices) < replicas:
        raise SystemExit(f"{request['topology']} has {len(devices)} devices, {replicas} replicas were asked for")
    devices = tuple(devices)[:replicas]
    options = jax_internals.compile_options(replicas)
    with open(request["module"]) as file:
        text = file.read()
    started = time.monotonic()
    result = {"memory": None, "refusal": None}
    with jax_internals.parsed(text) as module:
        try:
            executable = jax_internals.compile_module(module, devices, options)
        except JaxRuntimeError as error:  # all of the compiler's refusals are one, whatever their cause
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            result["refusal"] = str(error)
        else:
            stats = executable.get_compiled_memory_stats()
            result["memory"] = {name: getattr(stats, f"{name}_size_in_bytes") for name in _MEMORY}
            result["memory"]["peak"] = stats.peak_memory_in_bytes
            with gzip.open(request["hlo"], "wt", compresslevel=4) as file:
                file.write(executable.hlo_modules()[0].to_string())
    if request["schedule"]:
        result["cycles"] = cycles_of_kernel(request["schedule"], executable.hlo_modules()[0].to_string())
    result["seconds"] = time.monotonic() - started
    aside = request["result"] + ".aside"
    with open(aside, "w") as file:
        json.dump(result, file)
    os.replace(aside, request["result"])


def cycles_of_kernel(folder, hlo):
    """Cycles of one call of the module's only kernel: bundles of its static schedule x steps of its grid on one core.

    The schedule is the compiler's own, one bundle of instructions a cycle, delays included. Waiting for memory is not
    in it: blocks are fetched and written back beside the computation.
    """
    call = re.search(r"%([\w.\-]+) = .* custom-call\(.*tpu_custom_call", hlo)[1]
    (path,) = glob.glob(f"{folder}/*-{call}-*-schedule-analysis_final_bundles.txt")
    with open(path) as file:
        bundles = int(re.search(r"total scheduled bundles:\s+(\d+)", file.read())[1])
    (path,) = glob.glob(f"{folder}/*-{call}-*-final_bundles.txt")
    with open(path) as file:
        bounds = next(found[1] for line in file if (found := re.search(r"iteration_bounds: \(([\d, ]+)\)", line)))
    return bundles * math.prod(int(n) for n in bounds.split(",") if n.strip())


if __name__ == "__main__":
    main(sys.argv[1])
