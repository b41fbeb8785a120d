"""`read` and `write`: which format a path holds, told by content and not by name."""

from __future__ import annotations

import os
from pathlib import Path

from siglip_tf.checkpoints import native
from siglip_tf.checkpoints.checkpoint import Checkpoint, CheckpointError
from siglip_tf.checkpoints.files import kind_of_file, read_json

_WRITERS = {native.FORMAT: native.write}
FORMATS = tuple(_WRITERS)


def read(path: str | os.PathLike) -> Checkpoint:
    """Reads a checkpoint of any known format.

    Args:
        path: a big_vision or AugReg npz; a Hugging Face folder or safetensors file; a KerasHub preset folder; a folder
            that `write` made.

    Returns:
        Its weights under canonical names (float32), architecture, preprocessing and tokeniser.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: what is there is damaged, of another kind, or not the weights of one whole model.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    return _read_folder(path) if path.is_dir() else _read_file(path)


def write(path: str | os.PathLike, checkpoint: Checkpoint, format: str = native.FORMAT) -> None:
    """Writes a checkpoint: aside first, then renamed, so that `path` is whole or absent.

    Args:
        path: the folder to make (one file for "big_vision").
        checkpoint: what to write.
        format: one of `FORMATS`.

    Raises:
        ValueError: an unknown format, a destination that holds other things, or a model that the format cannot express.
    """
    if format not in _WRITERS:
        raise ValueError(f"Unknown format {format!r}; expected one of {', '.join(FORMATS)}.")
    _WRITERS[format](Path(path), checkpoint)


def _read_folder(path: Path) -> Checkpoint:
    config_file = path / "config.json"
    if not config_file.is_file():
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"{path} has no config.json, so it is no checkpoint folder. It holds {names}.")
    config = read_json(config_file)
    if native.recognises(config):
        return native.read(path)
    raise CheckpointError(f"{path} is of an unknown kind: its config.json has the keys {sorted(config)[:8]}.")


def _read_file(path: Path) -> Checkpoint:
    raise CheckpointError(f"{path} is {kind_of_file(path)}.")
