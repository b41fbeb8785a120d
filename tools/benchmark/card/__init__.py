"""A folder that travels to a machine with an accelerator. `tools.benchmark accelerator` copies it.

It needs numpy and jax, and neither TensorFlow nor siglip_tf. Its files import each other as siblings of `run.py`.
"""
