"""Fixtures of the TPU compiler, for kernels."""

from tests.tpu.conftest import compile_cache, compiler_installed

__all__ = ["compile_cache", "compiler_installed"]
