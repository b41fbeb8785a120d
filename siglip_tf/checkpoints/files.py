"""Reads and writes files of arrays that cannot contain code. Writes are atomic."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from siglip_tf import storage
from siglip_tf.checkpoints.checkpoint import CheckpointError

ArrayDict = dict[str, np.ndarray]

# Exceptions that zipfile, zlib, and numpy raise for damaged files.
_ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,  # zipfile raises it for an unknown compression method or version
    EOFError,
    OSError,
    ValueError,
    KeyError,
    SyntaxError,
)
# The kinds of files by their first bytes.
_BEGINNINGS = {
    b"\x89HDF\r\n\x1a\n": "hdf5",
    **{
        bytes([0x80, protocol]): "a pickle, which can run code when it is read; ask for npz or safetensors"
        for protocol in (2, 3, 4, 5)
    },
    b"\x93NUMPY": "a single .npy array, not an npz of named ones",
    b"version https://git-lfs": "a Git LFS pointer, not the file it points to; fetch it with `git lfs pull`",
}


def kind_of_file(path: Path) -> str:
    """Returns the kind of a file by its first bytes: "npz", "safetensors", "hdf5", or a text for an error message."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    for beginning, kind in _BEGINNINGS.items():
        if start.startswith(beginning):
            return kind
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header < 100_000_000:
        return "safetensors" if header + 8 <= path.stat().st_size else "a truncated safetensors file"
    return f"of an unknown kind (first bytes {start[:16]!r})" if start else "an empty file"


def _kind_of_zip(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return "a truncated zip archive (an npz file that was not written or copied to its end?)"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _ZIP_DAMAGE as error:
        return f"a damaged zip archive ({error})"
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch archive, which holds a pickle; convert it to safetensors with a library that you trust"
    if any(name.endswith("model.weights.h5") for name in names):
        return "a .keras archive; load it with keras.models.load_model"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "a zip archive without arrays"


def as_float32(array: np.ndarray, name: str) -> np.ndarray:
    """Converts a float array to float32. Voids of 2 bytes are bfloat16, which `numpy.save` stores that way.

    Raises:
        CheckpointError: if the array is not a float array.
    """
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        bits = np.asarray(array, order="C").view(np.uint16).astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    if array.dtype.name == "bfloat16" or array.dtype.kind == "f":
        return np.asarray(array, np.float32)
    raise CheckpointError(f"{name} has dtype {array.dtype}; expected a float array.")


def npz_names(path: Path) -> list[str]:
    """Returns the names of the arrays in an npz file without reading the arrays."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npz(path: Path) -> ArrayDict:
    """Returns all arrays of an npz file.

    Raises:
        CheckpointError: if the file is damaged, or contains an object array, which is a pickle.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except _ZIP_DAMAGE as error:
        if "allow_pickle" in str(error):
            raise CheckpointError(
                f"{path} holds an array of Python objects, which is a pickle and can run code when it is read. "
                "Save the weights as plain arrays."
            ) from error
        raise CheckpointError(f"{path} is damaged or truncated: {error}") from error


def read_safetensors(path: Path) -> ArrayDict:
    """Returns all arrays of a safetensors file.

    Raises:
        CheckpointError: if the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or truncated: {error}") from error


def read_h5(path: Path) -> ArrayDict:
    """Returns all data sets of an HDF5 file by their paths.

    Raises:
        CheckpointError: if the file is damaged, or links to another file, which it must not read.
    """
    import h5py

    arrays: ArrayDict = {}

    def collect(name: str | bytes, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if isinstance(name, bytes):  # h5py returns bytes for a name that is not UTF-8
            raise CheckpointError(f"{path} is damaged: it holds the name {name!r}.")
        if item.external or item.is_virtual:
            raise CheckpointError(f"{path} keeps {name} in another file; expected the weights inside it.")
        arrays[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)  # follows neither soft nor external links
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # h5py raises them for damaged files
        raise CheckpointError(f"{path} is damaged or truncated: {error}") from error
    return {name: np.asarray(array) for name, array in arrays.items()}


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        CheckpointError: if the file is not JSON. The message contains the path.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error


def write_json(path: Path, content: Any) -> None:
    """Writes readable JSON."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_npz(path: Path, arrays: ArrayDict) -> None:
    """Writes an npz file array by array, so that there is no second copy of the model in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def write_safetensors(path: Path, arrays: ArrayDict, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file."""
    from safetensors.numpy import save_file

    # The library writes the memory of an array as it is, so it would write a transposed view incorrectly.
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, str(path), metadata=metadata)


def write_h5(path: Path, arrays: ArrayDict) -> None:
    """Writes an HDF5 file with one data set at each path."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file atomically. `write` receives the path to write to.

    Raises:
        ValueError: if `path` is a folder.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; this format is written as one file. Name a file.")
    with storage.new_file(path) as aside:
        write(Path(aside))


def replace_folder(path: Path, write: Callable[[Path], None], own_files: Iterable[str]) -> None:
    """Writes a folder atomically.

    Args:
        path: the folder to write. An existing folder is replaced if it holds only `own_files`.
        write: a function that receives the path of a new folder and fills it.
        own_files: the names of the files and folders that the format writes.

    Raises:
        ValueError: if `path` is a file, or a folder with other files, which would be lost.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; this format is written as a folder. Name another destination.")
    if path.is_dir() and (foreign := sorted({entry.name for entry in path.iterdir()} - set(own_files))):
        raise ValueError(f"{path} holds other files ({', '.join(foreign[:5])}), which would be lost. Name another.")
    with storage.new_folder(path) as aside:
        write(Path(aside))
