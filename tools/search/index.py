"""The index of `tools.search`: embeddings of a folder's pictures, kept in it chunk by chunk.

`FOLDER/.siglip_search/` holds `manifest.json` (which model made it) and `chunk-*.npz` (vectors, paths, sizes and times
of files). A chunk is written aside and renamed, so a killed run continues where it was; a second run embeds what is new
or changed and forgets what is gone.
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
_CHUNK = 512  # pictures of a chunk: what a kill can lose


@dataclasses.dataclass(frozen=True)
class File:
    """A picture as it was when it was embedded; `path` is relative to the folder."""

    path: str
    size: int
    modified: int  # nanoseconds

    @property
    def key(self) -> int:
        """Its number in the graph of neighbors."""
        return key_of(self.path, self.size, self.modified)


@dataclasses.dataclass(frozen=True)
class Report:
    """What an indexing run did."""

    embedded: int
    kept: int
    forgotten: int
    broken: dict[str, str]  # path -> why


class Towers:
    """A model's towers for single queries and for batches of files.

    Args:
        model: a `SigLIP` with preprocessing of its own.
        batch_size: pictures per step while indexing.
        max_pixels: largest picture that is decoded.
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
            lambda data: self.preprocess.pixels(data, fused=True), input_signature=[tf.TensorSpec([], tf.string)]
        )
        batch = tf.nest.map_structure(lambda one: tf.TensorSpec([None, *one.shape], one.dtype), self.preprocess.spec)
        self._images = tf.function(
            lambda pixels: model.encode_image(self.preprocess.normalize(pixels)), input_signature=[batch]
        )
        self._texts = tf.function(
            lambda texts: model.encode_text(model.preprocessing.text(texts)),
            input_signature=[tf.TensorSpec([None], tf.string)],
        )
        self.temperature = float(np.exp(np.asarray(model.log_temperature)))
        self.bias = None if model.bias is None else float(np.asarray(model.bias))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any weight, the architecture or the preprocessing."""
        digest = hashlib.blake2b(digest_size=16)
        for name, variable in self.model.named_weights().items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(variable.numpy()).data)
        config = self.model.preprocessing.image.to_config()
        digest.update(json.dumps(config, sort_keys=True).encode())
        return digest.hexdigest()

    def probability(self, cosine: float) -> float:
        """Sigmoid of the logit t * cosine + b of an image and a text."""
        return float(tf.sigmoid(self.temperature * cosine + (self.bias or 0.0)))

    def image(self, data: bytes) -> np.ndarray:
        """(embed_dim,) float32 of one encoded picture.

        Raises:
            ValueError: bytes that are no picture, or one that is too large.
        """
        try:
            return self._images(_stacked([self._pixels(tf.constant(data))])).numpy()[0]
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(_why(error)) from error

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, embed_dim) float32."""
        return self._texts(tf.constant(list(texts), tf.string)).numpy()

    def files(self, paths: Sequence[Path], pool: ThreadPoolExecutor) -> tuple[np.ndarray, dict[int, str]]:
        """Embeddings (paths, embed_dim), and why for each that cannot be read; those rows are zeros."""
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
    """A batch of what the preprocessing makes: pixels, or patches and grids of a NaFlex model."""
    return tf.nest.map_structure(lambda *values: tf.stack(values), *pixels)


def _why(error: tf.errors.OpError) -> str:
    return error.message.splitlines()[0].split("}} ")[-1][:200]


def scan(folder: Path) -> dict[str, File]:
    """Every picture under the folder by relative path, hidden files and folders left out.

    A link to nothing is in it too, as an empty file: it is told as a picture that cannot be read.
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
    """Embeddings of a folder's pictures, and their search: exact, or where there are very many by a graph first.

    Attributes:
        files: the pictures that can be found, in the order of `vectors`.
        vectors: (files, embed_dim) float32.
        broken: path -> why, for files that could not be embedded.
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
        """What `update` wrote of the model.

        Raises:
            ValueError: there is no index.
        """
        try:
            return json.loads((self.store / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.folder} has no index. Make one: python -m tools.search index {self.folder} --model CHECKPOINT"
            ) from error

    def load(self) -> "Index":
        """Reads all chunks; a file embedded twice counts as it was last."""
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
        """Raises a ValueError unless `towers` are those that made the index."""
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
        """Embeds what is new or changed, forgets what is gone.

        Args:
            towers: the model.
            checkpoint: where it came from, for `query` and `serve`.
            tokenizer: the file that had to be named with it, if any.
            progress: called with files done and to do.

        Raises:
            ValueError: no such folder, or the index was made by another model.
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
        """Makes the index's folder and notes the model.

        Raises:
            ValueError: no such folder, or the index was made by another model.
        """
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder} is not a folder.")
        if (self.store / "manifest.json").exists():
            self.check_model(towers)
        self.store.mkdir(exist_ok=True)
        manifest = {"checkpoint": checkpoint, "tokenizer": tokenizer, "fingerprint": towers.fingerprint}
        write_file(self.store / "manifest.json", json.dumps(manifest, indent=1))

    def search(self, vector: np.ndarray, count: int) -> list[tuple[int, float]]:
        """The `count` nearest pictures as (position in `files`, cosine), best first."""
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
        """Searches by the graph of neighbors from now on, if `update` made one of all files and usearch is there."""
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
        """Takes files that are gone or have changed out of the chunks; paths that stay, and how many went."""
        known: set[str] = set()
        forgotten = 0
        # The latest chunk of a file is the one that counts.
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
        """Stores embeddings (files, embed_dim) as a chunk; `broken` says why for files without one."""
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
