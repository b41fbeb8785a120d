"""Speed and memory beside rivals or a bound, in one run: `python -m tools.benchmark {loss,data,step}`."""
