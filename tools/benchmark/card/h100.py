"""XLA's plan of the programs for an H100 that is not there."""

import os
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent

H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability 9.0a"
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  l2_cache_size: 52428800
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_address_bits: 64
  ecc_enabled: true
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.19.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 19 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def plan(manifest):
    """Compiles every program for an H100 that is not there and prints its temporary memory. Needs jax with CUDA."""
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # which asks the driver of a card
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jax._src.lib.mlir import ir
    from jax.experimental import topologies

    described = {"topology": "1x1x1", "target_config": H100}
    devices = topologies.get_topology_desc(platform="cuda", topology_name="H100", **described).devices
    options = compiler.get_compile_options(num_replicas=1, num_partitions=1, device_assignment=np.zeros((1, 1), int))
    for entry in manifest:
        with mlir.make_ir_context():
            module = ir.Module.parse((HERE / entry["file"]).read_text())
            compiled = devices[0].client.compile(module, xla_client.DeviceList(tuple(devices)), options)
        memory = compiled.get_compiled_memory_stats().temp_size_in_bytes / 2**20
        print(f"{entry['kind']} of {entry['n']:,} pairs, {entry['name']}: {memory:,.0f} MB", flush=True)
