"""Runs prepared programs on this machine's accelerator through jax, checks them and times them beside rivals.

python run.py [--rounds 10] [--rivals FOLDER] [--seconds 600] [--profile]
python run.py --plan          no card: XLA's compiler plans the programs for an H100 and says how much memory each takes

It needs numpy and jax, no TensorFlow and nothing of siglip_tf. `python -m tools.benchmark accelerator` puts it beside
the programs it runs. Rivals need torch; siglip-kernel and memeff are looked for in FOLDER, where their wheels are
installed (`pip install --no-deps --target FOLDER siglip-kernel memeff`). Results go to results.json and results.md.
"""

import argparse
import concurrent.futures
import importlib.metadata
import json
import os
import pathlib
import platform
import time

from h100 import plan
from programs import Program, ours
from rivals import rivals, transformers_step
from timing import measure, table

HERE = pathlib.Path(__file__).parent
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory on the same card


def versions():
    """Of what ran."""
    found = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "numpy", "torch", "triton", "transformers", "siglip-kernel", "memeff"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def main():
    """Runs everything; what is done is written after each program, so that a cut loses nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rivals", default=HERE / "rivals", help="folder with the wheels of siglip-kernel and memeff")
    parser.add_argument("--seconds", type=float, default=600, help="no new round begins after this time")
    parser.add_argument("--profile", action="store_true", help="also list the kernels of our programs (needs torch)")
    parser.add_argument("--plan", action="store_true", help="compile for an H100 without a card and print memory")
    options = parser.parse_args()
    manifest = json.loads((HERE / "manifest.json").read_text())
    if options.plan:
        plan(manifest)
        return
    import jax

    deadline = time.monotonic() + options.seconds
    device = jax.devices()[0]
    results = {"device": f"{device.platform} {device.device_kind}", "versions": versions(), "tables": {}}
    text = [f"Device: {results['device']}. Versions: {results['versions']}."]
    pool = concurrent.futures.ThreadPoolExecutor()  # a step's compile takes minutes: all of them at once
    programs = {entry["file"]: pool.submit(Program, entry) for entry in manifest}
    concurrent.futures.wait(programs.values())  # nothing is timed beside a compiler
    for kind, n in dict.fromkeys((entry["kind"], entry["n"]) for entry in manifest):
        entries = [entry for entry in manifest if (entry["kind"], entry["n"]) == (kind, n)]
        makers = {e["name"]: lambda e=e: ours(e, programs.pop(e["file"]).result()) for e in entries}
        if kind == "loss":
            makers |= rivals(n, entries[0]["dim"], options.rivals)
            title = f"Loss and gradients, n = {n:,}, d = {entries[0]['dim']}"
        else:
            makers["transformers + torch"] = lambda entry=entries[0]: transformers_step(entry)
            title = f"Training step, {n} pairs"
        found, kernels = measure(makers, options.rounds, deadline, [e["name"] for e in entries] * options.profile)
        results["tables"][title] = found
        text.append(table(title, found))
        print(text[-1], flush=True)
        for name, listed in kernels.items():
            text.append(f"\n{title}: {name}\n\n{listed}")
            print(text[-1], flush=True)
        (HERE / "results.json").write_text(json.dumps(results, indent=1))
        (HERE / "results.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
