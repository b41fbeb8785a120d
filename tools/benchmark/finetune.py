"""Compares fine-tuning with training from scratch, on the same few pairs of your data, with several seeds.

    python -m recipes.quickstart                                            writes the checkpoint to start from
    python -m tools.digits runs/digits
    python -m tools.benchmark finetune --start runs/quickstart/checkpoint --data runs/digits --pairs 500

For each seed, it draws pairs from the training part and trains on them with `recipes.quickstart` (from scratch) and
`recipes.finetune` (whole and lora). It evaluates each model on the whole held-out part. It also checks that the
checkpoint with merged adapters gives the same embeddings as the model with adapters.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WAYS = ("scratch", "whole", "lora")


def subset(data: Path, folder: Path, pairs: int, seed: int) -> int:
    """Writes a table with some training rows and all held-out rows of `data`, and returns the number of training rows.

    Raises:
        ValueError: if there is no captions.jsonl, or there are fewer training rows than `pairs`.
    """
    table = data / "captions.jsonl"
    if not table.is_file():
        raise ValueError(f"Expected --data to name a folder with captions.jsonl. There is none in {data}.")
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    train = [row for row in rows if row.get("split", "train") == "train"]
    if len(train) < pairs:
        raise ValueError(f"Expected --pairs of at most {len(train):,}, the training rows of {data}. Received: {pairs}")
    drawn = np.random.default_rng(seed).permutation(len(train))[:pairs]
    chosen = [train[number] for number in sorted(drawn)] + [row for row in rows if row.get("split", "train") != "train"]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({**row, "image": str((data / row["image"]).resolve())}) for row in chosen]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return pairs


def commands(start: str, data: Path, run: Path, seed: int) -> dict[str, list[str]]:
    """Returns the command line of each way to train."""
    common = ["--data", str(data), "--set", f"seed={seed}"]
    tune = [sys.executable, "-m", "recipes.finetune"]
    return {
        "scratch": [sys.executable, "-m", "recipes.quickstart", *common, "--run", str(run / "scratch")],
        "whole": [*tune, "whole", "--start", start, *common, "--run", str(run / "whole")],
        "lora": [*tune, "lora", "--start", start, *common, "--run", str(run / "lora")],
    }


def accuracy(run: Path) -> float:
    """Returns the first result of a run's report, which is the zero-shot accuracy on the held-out part."""
    return json.loads((run / "figures.json").read_text(encoding="utf-8"))["figures"][0]["value"]


def merge_error(start: str, run: Path, pictures: int = 8) -> float:
    """Returns the largest difference between embeddings of the merged checkpoint and of the start with adapters."""
    import siglip_tf

    merged = siglip_tf.SigLIP.from_checkpoint(str(run / "checkpoint"), verbose=False)
    adapted = siglip_tf.SigLIP.from_checkpoint(start, verbose=False)
    adapted.load_adapters(str(run / "checkpoint.adapters.safetensors"))
    images = np.random.default_rng(0).uniform(-1, 1, (pictures, *merged.image_size, 3)).astype(np.float32)
    return float(np.abs(merged.encode_image(images).numpy() - adapted.encode_image(images).numpy()).max())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--start", required=True, help="a checkpoint of a whole model")
    parser.add_argument("--data", required=True, type=Path, help="a folder with captions.jsonl and a held-out split")
    parser.add_argument("--pairs", type=int, default=500, help="training pairs (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, each with its own pairs (%(default)s)")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark-finetune"), help="folder to write the runs to"
    )
    options = parser.parse_args(argv)
    if options.pairs < 16 or options.seeds < 1:
        parser.error(f"expected --pairs >= 16 and --seeds >= 1. Received: {options.pairs} and {options.seeds}")
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    differences = []
    for seed in range(options.seeds):
        run = options.work / str(seed)
        try:
            subset(options.data, run / "data", options.pairs, seed)
        except ValueError as error:
            parser.error(str(error))
        for way, command in commands(options.start, run / "data", run, seed).items():
            print(f"seed {seed}, {way}", flush=True)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found[way].append(accuracy(run / way))
        differences.append(merge_error(options.start, run / "lora"))
    for way, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = ", ".join(f"{value:.1%}" for value in values)
        print(f"{way:8} {statistics.mean(values):6.1%} +- {spread:.1%}   ({each})")
    print(f"merged adapters differ from adapters by {max(differences):.1e} at most")
