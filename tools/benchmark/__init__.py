"""Benchmarks of speed and memory, compared with other libraries or with a bound: `python -m tools.benchmark NAME`."""
