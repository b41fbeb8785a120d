"""The index of `tools.search`: the embeddings of a folder's pictures, which are stored in the folder in chunks.

`FOLDER/.siglip_search/` contains `manifest.json` (the model) and `chunk-*.npz` (the vectors, and the paths, sizes, and
times of the files). A chunk is written under another name and renamed, so that an interrupted run continues where it
stopped. A second run embeds new and changed pictures, and removes those that no longer exist.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.sources.listing import is_image, walk
from siglip_tf.storage import new_file, write_file

from .neighbors import WORTH_A_GRAPH, Neighbors, available, key_of

INDEX_FOLDER = ".siglip_search"
_GRAPH = "neighbours.usearch"
_CHUNK = 512  # pictures per chunk, which is the most that an interruption can lose


@dataclasses.dataclass(frozen=True)
class File:
    """The state of a picture's file when it was embedded. `path` is relative to the folder."""

    path: str
    size: int
    modified: int  # nanoseconds

    @property
    def key(self) -> int:
        """The key of the file in the graph of neighbors."""
        return key_of(self.path, self.size, self.modified)


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of an update: how many pictures were embedded, kept, and removed, and why some are broken."""

    embedded: int
    kept: int
    forgotten: int
    broken: dict[str, str]  # the reasons by path


class Towers:
    """Embeds single queries and batches of files with a model's towers.

    Args:
        model: a `SigLIP` with its own preprocessing.
        batch_size: number of pictures per step while indexing.
        max_pixels: number of pixels of the largest picture that is decoded.

    Raises:
        ValueError: if the model has no preprocessing of images and texts.
    """

    def __init__(self, model, batch_size: int = 16, max_pixels: int = 100_000_000):
        if model.preprocessing is None or None in (model.preprocessing.image, model.preprocessing.text):
            raise ValueError(
                "This checkpoint says nothing of its preprocessing: give --tokenizer, or convert it first."
            )
        self.model, self.batch_size = model, batch_size
        config = model.preprocessing.image.to_config() | {"max_pixels": max_pixels}
        self.preprocess = type(model.preprocessing.image).from_config(config)
        self._pixels = tf.function(
            lambda data: self.preprocess.pixels(data, fused=True),
            input_signature=[tf.TensorSpec([], tf.string)],
            autograph=False,
        )
        batch = tf.nest.map_structure(lambda one: tf.TensorSpec([None, *one.shape], one.dtype), self.preprocess.spec)
        self._images = tf.function(
            lambda pixels: model.encode_image(self.preprocess.normalize(pixels)),
            input_signature=[batch],
            autograph=False,
        )
        self._texts = tf.function(
            lambda texts: model.encode_text(model.preprocessing.text(texts)),
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )
        self.temperature = float(np.exp(np.asarray(model.log_temperature)))
        self.bias = None if model.bias is None else float(np.asarray(model.bias))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all weights, the architecture, and the image preprocessing."""
        digest = hashlib.blake2b(digest_size=16)
        for name, variable in self.model.named_weights().items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(variable.numpy()).data)
        config = self.model.preprocessing.image.to_config()
        digest.update(json.dumps(config, sort_keys=True).encode())
        return digest.hexdigest()

    def probability(self, cosine: float) -> float:
        """Returns the sigmoid of the logit t * cosine + b of an image and a text."""
        return float(tf.sigmoid(self.temperature * cosine + (self.bias or 0.0)))

    def image(self, data: bytes) -> np.ndarray:
        """Returns the embedding of one encoded picture, float32 (embed_dim,).

        Raises:
            ValueError: if the bytes are not a picture, or the picture is too large.
        """
        try:
            return self._images(_stacked([self._pixels(tf.constant(data))])).numpy()[0]
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(_why(error)) from error

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts, float32 (texts, embed_dim)."""
        return self._texts(tf.constant(list(texts), tf.string)).numpy()

    def files(self, paths: Sequence[Path], pool: ThreadPoolExecutor) -> tuple[np.ndarray, dict[int, str]]:
        """Embeds files.

        Returns:
            Embeddings, float32 (paths, embed_dim), and the reasons for the files that cannot be read, by position.
            Their rows are zeros.
        """
        broken: dict[int, str] = {}
        result = np.zeros((len(paths), self.model.embed_dim), np.float32)

        def decode(path: Path) -> tf.Tensor | str:
            try:
                return self._pixels(tf.constant(path.read_bytes()))
            except tf.errors.InvalidArgumentError as error:
                return _why(error)
            except OSError as error:
                return str(error)

        for start in range(0, len(paths), self.batch_size):
            decoded = list(pool.map(decode, paths[start : start + self.batch_size]))
            good = [i for i, value in enumerate(decoded) if not isinstance(value, str)]
            broken |= {start + i: value for i, value in enumerate(decoded) if isinstance(value, str)}
            if good:
                result[[start + i for i in good]] = self._images(_stacked([decoded[i] for i in good])).numpy()
        return result, broken


def _stacked(pixels: Sequence[Any]) -> Any:
    """Stacks results of the preprocessing: pixels, or patches and grids of a NaFlex model."""
    return tf.nest.map_structure(lambda *values: tf.stack(values), *pixels)


def _why(error: tf.errors.OpError) -> str:
    return error.message.splitlines()[0].split("}} ")[-1][:200]


def scan(folder: Path) -> dict[str, File]:
    """Returns every picture in the folder by its relative path, without hidden files and folders.

    A broken link is included as an empty file, so that it is reported as a picture that cannot be read.
    """
    found = {}
    for where, names in walk(str(folder)):
        for path in (Path(where, name) for name in names if is_image(name)):
            relative = path.relative_to(folder).as_posix()
            try:
                state = path.stat()
                found[relative] = File(relative, state.st_size, state.st_mtime_ns)
            except OSError:
                found[relative] = File(relative, 0, 0)
    return found


class Index:
    """The embeddings of a folder's pictures, with an exact search, or a search by a graph for very many pictures.

    Attributes:
        files: the pictures that can be found, in the order of `vectors`.
        vectors: float32 (files, embed_dim).
        broken: the reasons for files that could not be embedded, by path.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.store = self.folder / INDEX_FOLDER
        self.files: list[File] = []
        self.vectors = np.empty((0, 0), np.float32)
        self.broken: dict[str, str] = {}
        self._neighbors: Neighbors | None = None
        self._positions: dict[int, int] = {}

    def manifest(self) -> dict:
        """Returns what `update` stored about the model.

        Raises:
            ValueError: if there is no index.
        """
        try:
            return json.loads((self.store / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.folder} has no index. Make one: python -m tools.search index {self.folder} --model CHECKPOINT"
            ) from error

    def load(self) -> "Index":
        """Reads all chunks. If a file was embedded twice, the last embedding is used."""
        rows: dict[str, tuple[File, np.ndarray | None, str]] = {}
        for path in self._chunks():
            for file, vector, why in _read_chunk(path):
                rows[file.path] = file, vector, why
        good = [(file, vector) for file, vector, _ in rows.values() if vector is not None]
        self.files = [file for file, _ in good]
        self.vectors = np.stack([vector for _, vector in good]) if good else np.empty((0, 0), np.float32)
        self.broken = {file.path: why for file, vector, why in rows.values() if vector is None}
        return self

    def check_model(self, towers: Towers) -> None:
        """Raises a ValueError if the index was not built with `towers`."""
        manifest = self.manifest()
        if manifest["fingerprint"] != towers.fingerprint:
            raise ValueError(
                f"The index in {self.store} was made by another model than this one, from {manifest['checkpoint']} "
                "(or other preprocessing). Delete that folder to start over."
            )

    def update(
        self,
        towers: Towers,
        checkpoint: str,
        tokenizer: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Report:
        """Embeds new and changed pictures, and removes those that no longer exist.

        Args:
            towers: the model.
            checkpoint: the path of the model's checkpoint, for `query` and `serve`.
            tokenizer: the tokenizer file that the checkpoint needs, if any.
            progress: a function that is called with the number of files done and the total.

        Raises:
            ValueError: if the folder does not exist, or the index was built with another model.
        """
        self.begin(towers, checkpoint, tokenizer)
        found = scan(self.folder)
        known, forgotten = self._drop_stale(found)
        todo = [file for path, file in found.items() if path not in known]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for start in range(0, len(todo), _CHUNK):
                part = todo[start : start + _CHUNK]
                vectors, broken = towers.files([self.folder / file.path for file in part], pool)
                self.add(part, vectors, broken)
                if progress is not None:
                    progress(start + len(part), len(todo))
        self.load()
        if len(self.files) >= WORTH_A_GRAPH and available():
            self._open_graph().follow([file.key for file in self.files], self.vectors, progress)
        return Report(len(todo), len(known), forgotten, self.broken)

    def begin(self, towers: Towers, checkpoint: str, tokenizer: str | None) -> None:
        """Creates the folder of the index, and stores which model it uses.

        Raises:
            ValueError: if the folder does not exist, or the index was built with another model.
        """
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder} is not a folder.")
        if (self.store / "manifest.json").exists():
            self.check_model(towers)
        self.store.mkdir(exist_ok=True)
        manifest = {"checkpoint": checkpoint, "tokenizer": tokenizer, "fingerprint": towers.fingerprint}
        write_file(self.store / "manifest.json", json.dumps(manifest, indent=1))

    def search(self, vector: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Returns the `count` nearest pictures as (position in `files`, cosine), best first."""
        if not self.files:
            return []
        if self._neighbors is None:
            candidates = np.arange(len(self.files))
            scores = self.vectors @ vector
        else:
            keys = self._neighbors.search(vector, 2 * count)
            candidates = np.array(sorted(self._positions[key] for key in keys if key in self._positions))
            scores = self.vectors[candidates] @ vector
        count = min(count, len(scores))
        best = np.argpartition(-scores, count - 1)[:count]
        best = best[np.argsort(-scores[best], kind="stable")]
        return [(int(candidates[i]), float(scores[i])) for i in best]

    def use_graph(self) -> bool:
        """Makes `search` use the graph of neighbors if there is a graph of all files and usearch is installed.

        Returns:
            Whether the graph is used.
        """
        if not (self.store / _GRAPH).exists() or not available():
            return False
        graph = self._open_graph()
        if len(graph) != len(self.files):
            return False
        self._neighbors = graph
        self._positions = {file.key: i for i, file in enumerate(self.files)}
        return True

    def _open_graph(self) -> Neighbors:
        return Neighbors(self.store / _GRAPH, self.vectors.shape[1])

    def _chunks(self) -> list[Path]:
        return sorted(self.store.glob("chunk-*.npz"))

    def _drop_stale(self, found: dict[str, File]) -> tuple[set[str], int]:
        """Removes missing and changed files from the chunks. Returns the paths that stay, and how many were removed."""
        known: set[str] = set()
        forgotten = 0
        # If a file is in several chunks, the latest one is used.
        for path in reversed(self._chunks()):
            rows = list(_read_chunk(path))
            fresh = [row for row in rows if found.get(row[0].path) == row[0] and row[0].path not in known]
            known |= {file.path for file, *_ in fresh}
            forgotten += len(rows) - len(fresh)
            if not fresh:
                path.unlink()
            elif len(fresh) < len(rows):
                self._write_rows(path, fresh)
        return known, forgotten

    def add(self, files: Sequence[File], vectors: np.ndarray, broken: dict[int, str]) -> None:
        """Stores embeddings (files, embed_dim) as a chunk. `broken` has the reasons for files without an embedding."""
        number = 1 + max((int(path.stem.split("-")[1]) for path in self._chunks()), default=-1)
        rows = [(file, None if i in broken else vectors[i], broken.get(i, "")) for i, file in enumerate(files)]
        self._write_rows(self.store / f"chunk-{number:06d}.npz", rows)

    def _write_rows(self, path: Path, rows: Sequence[tuple[File, np.ndarray | None, str]]) -> None:
        good = [vector for _, vector, _ in rows if vector is not None]
        arrays: dict[str, Any] = {
            "paths": np.array([json.dumps([file.path for file, *_ in rows])]),
            "sizes": np.array([file.size for file, *_ in rows], np.int64),
            "modified": np.array([file.modified for file, *_ in rows], np.int64),
            "why": np.array([json.dumps([why for *_, why in rows])]),
            "good": np.array([vector is not None for _, vector, _ in rows]),
            "vectors": np.stack(good) if good else np.empty((0, 0), np.float32),
        }
        with new_file(path) as aside:
            np.savez(aside, **arrays)


def _read_chunk(path: Path) -> Iterator[tuple[File, np.ndarray | None, str]]:
    with np.load(path, allow_pickle=False) as arrays:
        paths, whys = (json.loads(str(arrays[name][0])) for name in ("paths", "why"))
        sizes, modified, good, vectors = (arrays[name] for name in ("sizes", "modified", "good", "vectors"))
    row = iter(vectors)
    for i, name in enumerate(paths):
        yield File(name, int(sizes[i]), int(modified[i])), next(row) if good[i] else None, whys[i]
