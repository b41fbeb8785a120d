"""Atomic writes of files and folders, on local disks and in object stores.

A file is written under another name and renamed when it is complete. On a disk, the rename is atomic. In an object
store, a rename copies the object, and the copy also appears atomically. A folder is different: an object store copies
its objects one by one, so a reader of a renamed folder could find half of it. There, the objects are written in place.
The one file without which no reader uses the folder (its marker, its manifest, its `saved_model.pb`) is written last.

Every function accepts local paths and any address that `tf.io.gfile` supports, and converts the errors of a full disk
or a read-only folder to a `StorageError`.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".partial"  # the end of the names of files and folders that are being written

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_CODES = {*_NO_SPACE, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_PHRASES = {
    "no space left": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "read-only file system": errno.EROFS,
    "permission denied": errno.EACCES,
    "operation not permitted": errno.EPERM,
}


class StorageError(OSError):
    """Raised if a disk or store cannot be written to. The message says why and what to do."""

    def __str__(self) -> str:
        return str(self.args[1])


def is_object_store(path: str | os.PathLike) -> bool:
    """Whether a path is an address such as `gs://...`, where a folder cannot be renamed in one step."""
    path = os.fspath(path)
    return "://" in path and not path.startswith("file://")


def write_file(path: str | os.PathLike, content: str | bytes | Iterable[bytes]) -> None:
    """Writes a file atomically. Readers see the old content or the new, and a failed write keeps the old content.

    Args:
        path: the file. Its folder is created if it does not exist.
        content: text (written as UTF-8), bytes, or parts of the bytes in order.

    Raises:
        StorageError: if the disk is full, or the folder cannot be written to.
    """
    if isinstance(content, str):
        content = content.encode()
    parts = [content] if isinstance(content, bytes) else content
    with _replacing(path, ending="") as aside, _opened(aside) as file:
        for part in parts:
            file.write(part)


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[str]:
    """Yields a temporary name for a file, and renames the file to `path` when the block ends without an error.

    This is for libraries that write a file by its name. The name is in the folder of `path` and has the same extension,
    because some libraries depend on it.

    Args:
        path: the file. Its folder is created if it does not exist.

    Raises:
        StorageError: if the disk is full, or the folder cannot be written to.
    """
    with _replacing(path, os.path.splitext(path)[1]) as aside:
        yield aside


@contextlib.contextmanager
def _replacing(path: str | os.PathLike, ending: str) -> Iterator[str]:
    path = os.fspath(path)
    aside = _aside(path) + ending
    with explained(path):
        _make_folder(os.path.dirname(path))
        try:
            yield aside
            _rename(aside, path)
        except BaseException:
            with contextlib.suppress(Exception):
                remove(aside)
            raise


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, last: str | None = None, replace: bool = True) -> Iterator[str]:
    """Yields an empty local folder to fill, and renames or copies it to `path` when the block ends without an error.

    Args:
        path: the folder.
        last: the file without which no reader uses the folder. It is copied to an object store last. None is allowed
            for a folder that is never in an object store.
        replace: whether to replace an existing folder as a whole. If False, an existing folder is an error.

    Raises:
        StorageError: if the disk is full, or the folder cannot be written to.
        FileNotFoundError: if the block did not write `last`.
        FileExistsError: if the folder exists and `replace` is False.
        ValueError: if `path` is in an object store and `last` is None.
    """
    path = os.fspath(path).rstrip("/")
    path = path.removeprefix("file://")
    there = FileExistsError(f"{path} is there already. Name another folder, or remove it.")
    with explained(path):
        if is_object_store(path):
            if last is None:
                raise ValueError(f"Expected the name of the file that is written last to {path}. Received: last=None")
            with tempfile.TemporaryDirectory() as aside:
                yield aside
                _require(aside, last)
                if not replace and _tensorflow().io.gfile.isdir(path):
                    raise there
                _upload(aside, path, last)
            return
        aside = _aside(path)
        os.makedirs(aside)
        try:
            yield aside
            _require(aside, last)
            if not replace and os.path.isdir(path):
                raise there
            replace_folder(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def replace_folder(folder: str | os.PathLike, path: str | os.PathLike) -> None:
    """Renames a local folder to `path`. An existing folder is first renamed, so that it is never half deleted."""
    folder, path = os.fspath(folder), os.fspath(path)
    if not os.path.isdir(path):
        os.rename(folder, path)
        return
    former = _aside(path)
    os.rename(path, former)
    try:
        os.rename(folder, path)
    except OSError:
        os.rename(former, path)
        raise
    shutil.rmtree(former)


def sweep(folder: str | os.PathLike, names: Collection[str]) -> None:
    """Removes half-written files that killed processes left in a folder. No process may write these files now."""
    folder = os.fspath(folder).rstrip("/")
    gfile = _tensorflow().io.gfile
    if not gfile.isdir(folder):
        return
    for name in (name.rstrip("/") for name in gfile.listdir(folder)):
        if PARTIAL in name and any(name.startswith(f".{written}.") for written in names):
            path = f"{folder}/{name}"
            gfile.rmtree(path) if gfile.isdir(path) else remove(path)


def read_file(path: str | os.PathLike) -> bytes:
    """Returns the content of a file.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    path = os.fspath(path)
    if not is_object_store(path):
        return Path(path.removeprefix("file://")).read_bytes()
    tf = _tensorflow()
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except tf.errors.NotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None


def remove(path: str | os.PathLike) -> None:
    """Removes a file. It is not an error if the file does not exist."""
    path = os.fspath(path)
    if not is_object_store(path):
        Path(path.removeprefix("file://")).unlink(missing_ok=True)
        return
    tf = _tensorflow()
    with contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.remove(path)


@contextlib.contextmanager
def explained(path: str | os.PathLike, needed: int | None = None, more: str = "") -> Iterator[None]:
    """Converts errors of Python and TensorFlow for a full disk or a read-only folder to a `StorageError`.

    Args:
        path: the file or folder that is written.
        needed: its size in bytes, if known.
        more: a sentence to add to the message, for example about what remains.

    Raises:
        StorageError: if the block raises such an error.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # TensorFlow and Python raise many types; only errors of the storage are converted
        code = _code(error)
        if code is None:
            raise
        raise storage_error(path, code, needed, more) from error


def storage_error(path: str | os.PathLike, code: int, needed: int | None = None, more: str = "") -> StorageError:
    """Returns the error that says why `path` cannot be written, for an `errno` code."""
    path = os.fspath(path)
    free = free_bytes(path)
    if code in _NO_SPACE:
        why = "the disk is full" if code == errno.ENOSPC else "the disk quota is used up"
        size = "" if needed is None else f"{needed:,} bytes are needed; "
        size += "" if free is None else f"{free:,} bytes are free. "
        do = "Free some space or name another folder."
    elif code == errno.EFBIG:
        why = "the file is larger than this process may write"
        size = "" if needed is None else f"{needed:,} bytes are needed. "
        do = "Raise the limit (ulimit -f) or name another folder."
    else:
        why = "the file system is read-only" if code == errno.EROFS else "permission is denied"
        size, do = "", "Name a folder that this user may write to."
    size = size[:1].upper() + size[1:]
    return StorageError(
        code, " ".join(part for part in (f"Cannot write {path}: {why}.", size.strip(), do, more) if part)
    )


def require_space(path: str | os.PathLike, needed: int, more: str = "") -> None:
    """Checks that a disk has enough space before a large write. Object stores are assumed to have enough.

    Raises:
        StorageError: if fewer than `needed` bytes are free.
    """
    free = free_bytes(path)
    if free is not None and free < needed:
        raise storage_error(path, errno.ENOSPC, needed, more)


def free_bytes(path: str | os.PathLike) -> int | None:
    """Returns the free bytes on the disk of a path, which need not exist yet. Returns None for an object store."""
    path = os.fspath(path)
    if is_object_store(path):
        return None
    folder = os.path.abspath(path.removeprefix("file://"))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def _code(error: BaseException) -> int | None:
    """Returns the `errno` for a full disk or a read-only folder, whichever library raised it, else None."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _CODES else None
    text = str(error).lower()
    return next((code for phrase, code in _PHRASES.items() if phrase in text), None)


def _aside(path: str) -> str:
    """Returns a name next to `path` that no other process, thread, or host uses."""
    folder, name = os.path.split(path)
    unique = f".{name}.{uuid.uuid4().hex[:12]}{PARTIAL}"
    return f"{folder}/{unique}" if folder else unique


def _opened(path: str) -> Any:
    if not is_object_store(path):
        return open(path.removeprefix("file://"), "wb")
    return _tensorflow().io.gfile.GFile(path, "wb")


def _make_folder(folder: str) -> None:
    if not folder:
        return
    if is_object_store(folder):
        _tensorflow().io.gfile.makedirs(folder)
    else:
        os.makedirs(folder.removeprefix("file://"), exist_ok=True)


def _rename(source: str, target: str) -> None:
    if is_object_store(target):
        _tensorflow().io.gfile.rename(source, target, overwrite=True)
    else:
        os.replace(source.removeprefix("file://"), target.removeprefix("file://"))


def _require(folder: str, last: str | None) -> None:
    if last is not None and not os.path.exists(os.path.join(folder, last)):
        raise FileNotFoundError(f"Expected a file {last} in the folder. Found: {sorted(os.listdir(folder))}")


def _upload(folder: str, target: str, last: str) -> None:
    """Copies a local folder to an object store, with the file `last` last. If the copy fails, it is removed."""
    gfile = _tensorflow().io.gfile
    files = sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
    files.sort(key=lambda name: name == last)
    if gfile.isdir(target):
        remove(f"{target}/{last}")  # without this file, no reader uses the old folder
        gfile.rmtree(target)
    try:
        for name in files:
            _make_folder(os.path.dirname(f"{target}/{name}"))
            gfile.copy(os.path.join(folder, name), f"{target}/{name}", overwrite=True)
    except BaseException:
        with contextlib.suppress(Exception):
            gfile.rmtree(target)
        raise


def _tensorflow() -> Any:
    import tensorflow as tf  # imported here, because commands that only write a local file do not need it

    return tf
