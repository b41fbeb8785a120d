"""`read` and `write` for all formats. A format is recognized by its content, not by the file's name."""

from __future__ import annotations

import base64
import dataclasses
import os
from pathlib import Path

from siglip_tf.checkpoints import architecture, augreg, big_vision, hugging_face, keras_hub, native
from siglip_tf.checkpoints.checkpoint import Checkpoint, CheckpointError
from siglip_tf.checkpoints.files import kind_of_file, npz_names, read_json
from siglip_tf.checkpoints.remote import is_remote, local_copy

_WRITERS = {module.FORMAT: module.write for module in (native, big_vision, hugging_face, keras_hub)}
FORMATS = tuple(_WRITERS)
# Methods of `siglip_tf.data.ImagePreprocessing`, whose module needs TensorFlow.
RESIZES = ("big_vision", "bicubic_antialias", "bilinear_antialias")
# Exceptions that a configuration with an unexpected form causes.
_MISSHAPEN = (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError, RecursionError)


def read(path: str | os.PathLike, tokenizer: str | os.PathLike | None = None, resize: str | None = None) -> Checkpoint:
    """Reads a checkpoint of any known format. The format is recognized by the content.

    Args:
        path: a big_vision or AugReg npz file, a Hugging Face folder or safetensors file, a KerasHub preset folder, or a
            folder that `write` has written. TensorFlow first copies files from other file systems (`gs://`).
        tokenizer: the file of a SentencePiece model, for formats that do not contain it (npz) or to replace theirs.
        resize: one of `RESIZES`, which replaces the checkpoint's own method. "big_vision" is the method with which
            big_vision's models were trained.

    Returns:
        The float32 weights with canonical names, the architecture, the preprocessing, and the tokenizer. `notes` say
        what was guessed or left out.

    Raises:
        ValueError: if `resize` is unknown.
        FileNotFoundError: if the path does not exist.
        CheckpointError: if the file is damaged, has another format, or does not hold the weights of one whole model.
            The message lists missing, unexpected, and misshapen keys.
    """
    if resize is not None and resize not in RESIZES:
        raise ValueError(f"Expected resize to be one of {', '.join(RESIZES)}. Received: {resize!r}.")
    if is_remote(os.fspath(path)):
        with local_copy(os.fspath(path)) as local:
            return dataclasses.replace(read(local, tokenizer, resize), source=os.fspath(path))
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    checkpoint = _read_folder(path, resize) if path.is_dir() else _read_file(path, resize)
    if tokenizer is not None:
        checkpoint = dataclasses.replace(checkpoint, tokenizer=_read_tokenizer(Path(tokenizer)))
    image = (checkpoint.preprocessing or {}).get("image")
    if resize is None or not image or image["method"] == resize:
        return checkpoint
    preprocessing = {**checkpoint.preprocessing, "image": {**image, "method": resize}}
    return dataclasses.replace(checkpoint, preprocessing=preprocessing)


def _read_tokenizer(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"No tokenizer at {path}: expected the file of a SentencePiece model.")
    return path.read_bytes()


def write(path: str | os.PathLike, checkpoint: Checkpoint, format: str = native.FORMAT) -> tuple[str, ...]:
    """Writes a checkpoint. It is written under another name and then renamed, so that `path` is complete or absent.

    Args:
        path: the folder to write. For "big_vision" it is a file, and the SentencePiece model is written beside it.
        checkpoint: the checkpoint.
        format: one of `FORMATS`.

    Returns:
        Notes on what the format cannot express exactly. The native format has none.

    Raises:
        ValueError: if the format is unknown, the destination holds other files, or the format cannot express the model.
    """
    if format not in _WRITERS:
        raise ValueError(f"Unknown format {format!r}; expected one of {', '.join(FORMATS)}.")
    weights = architecture.whole(checkpoint.weights, architecture.of(checkpoint), "The checkpoint to write")
    checkpoint = _vocabulary_apart(dataclasses.replace(checkpoint, weights=weights))
    notes = _WRITERS[format](Path(path), checkpoint)
    if checkpoint.calibration is not None and format != native.FORMAT:
        notes += (f"{format} has no place for the thresholds of yes and no, which are left out.",)
    return notes


def foreign_name(name: str, format: str) -> str:
    """Returns the name that a canonical weight has in files of `format`."""
    modules = {module.FORMAT: module for module in (big_vision, hugging_face, keras_hub)}
    return modules[format].foreign_name(name) if format in modules else name


def _vocabulary_apart(checkpoint: Checkpoint) -> Checkpoint:
    """Moves the SentencePiece model from the configuration of the preprocessing to the checkpoint's `tokenizer`."""
    text = (checkpoint.preprocessing or {}).get("text") or {}
    if "model_proto" not in text:
        return checkpoint
    text = dict(text)
    model = base64.b64decode(text.pop("model_proto"), validate=True)
    preprocessing = {**checkpoint.preprocessing, "text": text}
    return dataclasses.replace(checkpoint, preprocessing=preprocessing, tokenizer=checkpoint.tokenizer or model)


def _read_folder(path: Path, resize: str | None) -> Checkpoint:
    config_file = path / "config.json"
    if not config_file.is_file():
        if (path / hugging_face.WEIGHTS).is_file() or (path / hugging_face.INDEX).is_file():
            return hugging_face.read(path, resize)
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"{path} has no config.json, so it is no checkpoint folder. It holds {names}.")
    config = read_json(config_file)
    try:
        if native.recognizes(config):
            return native.read(path)
        for module in (hugging_face, keras_hub):
            if module.recognizes(config):
                return module.read(path, resize)
    except CheckpointError:
        raise
    except _MISSHAPEN as error:
        raise CheckpointError(f"{path}: its configuration lacks or mistypes {error}.") from error
    keys = sorted(config)[:8] if isinstance(config, dict) else type(config).__name__
    raise CheckpointError(f"{path} is of an unknown kind: its config.json holds {keys}.")


def _read_file(path: Path, resize: str | None) -> Checkpoint:
    kind = kind_of_file(path)
    if kind == "npz":
        names = npz_names(path)
        for module in (big_vision, augreg):
            if module.recognizes(names):
                return module.read(path)
        raise CheckpointError(f"{path} is an npz of other arrays ({', '.join(names[:5])} ...), neither SigLIP nor ViT.")
    if kind == "safetensors":
        return native.read(path.parent) if path.name == native.WEIGHTS else hugging_face.read(path, resize)
    if kind == "hdf5":
        raise CheckpointError(f"{path} is an HDF5 file; name the KerasHub preset folder that holds it.")
    raise CheckpointError(f"{path} is {kind}.")
