"""The project's own format: a folder with `config.json`, `weights.safetensors`, and `tokenizer.model`.

The weights have canonical names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siglip_tf.checkpoints import architecture as arch
from siglip_tf.checkpoints.checkpoint import Checkpoint, CheckpointError, check_calibration
from siglip_tf.checkpoints.files import (
    as_float32,
    read_json,
    read_safetensors,
    replace_folder,
    write_json,
    write_safetensors,
)
from siglip_tf.version import __version__

FORMAT = "native"
CONFIG, WEIGHTS, TOKENIZER = "config.json", "weights.safetensors", "tokenizer.model"
_FORMAT_VERSION = 1


def recognizes(config: Any) -> bool:
    """Whether the content of a `config.json` file is that of this format."""
    return isinstance(config, dict) and config.get("format") == "siglip_tf"


def read(path: Path) -> Checkpoint:
    """Reads a folder that `write` has written.

    Raises:
        CheckpointError: if a newer version wrote the folder, it is damaged, or the weights do not match the
            configuration.
    """
    config = read_json(path / CONFIG)
    if config.get("format_version", 0) > _FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {config['format_version']}, written by siglip_tf {config.get('siglip_tf')}; "
            f"this is siglip_tf {__version__}, which reads up to {_FORMAT_VERSION}. Update siglip_tf."
        )
    check_calibration(config.get("calibration"))
    if not (path / WEIGHTS).is_file():
        raise CheckpointError(f"{path} has a {CONFIG} but no {WEIGHTS}: it was copied only in part.")
    weights = {name: as_float32(array, name) for name, array in read_safetensors(path / WEIGHTS).items()}
    tokenizer = path / TOKENIZER
    return Checkpoint(
        architecture=config["architecture"],
        weights=arch.whole(weights, config["dimensions"], str(path)),
        preprocessing=config.get("preprocessing"),
        calibration=config.get("calibration"),
        format=FORMAT,
        tokenizer=tokenizer.read_bytes() if tokenizer.is_file() else None,
        source=str(path),
    )


def write(path: Path, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Writes the folder atomically. This format can express everything, so there are no notes."""
    # The model's arguments may name a variant ("B/16"). With the dimensions, a reader can check the weights without a
    # model.
    config = {
        "format": "siglip_tf",
        "format_version": _FORMAT_VERSION,
        "siglip_tf": __version__,
        "architecture": checkpoint.architecture,
        "dimensions": arch.of(checkpoint),
        "preprocessing": checkpoint.preprocessing,
    }
    if checkpoint.calibration is not None:
        check_calibration(checkpoint.calibration)
        config["calibration"] = checkpoint.calibration

    def fill(folder: Path) -> None:
        write_json(folder / CONFIG, config)
        write_safetensors(folder / WEIGHTS, checkpoint.weights, {"format": "siglip_tf"})
        if checkpoint.tokenizer is not None:
            (folder / TOKENIZER).write_bytes(checkpoint.tokenizer)

    replace_folder(path, fill, own_files=(CONFIG, WEIGHTS, TOKENIZER))
    return ()
