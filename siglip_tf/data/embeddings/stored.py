"""Embeddings of a frozen image tower on disk, with the token ids of their captions: what SigLiT trains on.

A folder holds `manifest.json` and one file per shard, `shard-00000-of-00010.safetensors`, each with

- `image_embedding`: float16, bfloat16 or float32 (images, embed_dim), l2-normalized;
- `text`: int32 (texts, text_length), every caption of every image;
- `first_text`: int64 (images + 1,), where each image's captions begin;
- `record`: int64 (images,), the record of the source that each image was.

The manifest names the tower (a hash of its weights), the preprocessing, and the source, and counts the records that
were used and skipped. A shard is written under another name and then renamed, so a shard that exists is complete.

The format is safetensors. This file reads and writes it itself, because `safetensors.numpy` copies each tensor that it
opens and does not support bfloat16, while training gathers single rows from mapped files.

Source: "Sigmoid Loss for Language Image Pre-Training", section 4.1 (SigLiT trains on precomputed embeddings).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.storage import write_file

VERSION = 1
MANIFEST = "manifest.json"
DTYPES = {"float16": np.dtype(np.float16), "bfloat16": tf.bfloat16.as_numpy_dtype, "float32": np.dtype(np.float32)}
_TYPE_CODES = {
    "F16": np.float16,
    "BF16": tf.bfloat16.as_numpy_dtype,
    "F32": np.float32,
    "I32": np.int32,
    "I64": np.int64,
}


# The values that manifests had before they stored the key.
_BEFORE_IT_WAS_STORED = {"preprocessing.image.alpha": "drop"}


def tower_fingerprint(weights: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a tower's weights: of their names, shapes, and values.

    Args:
        weights: canonical name to array or variable, e.g. those of `model.named_weights()` that begin with "image/".
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(np.asarray(weights[name], np.float32))
        digest.update(f"{name} {array.shape}\0".encode())
        digest.update(array.data)
    return digest.hexdigest()


def describe(preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns the part of a manifest that says how images and texts were prepared, or texts alone without images."""
    config = preprocessing.to_config(vocabulary=False)
    parts = {"text": {**config["text"], "vocabulary": preprocessing.text.fingerprint}}
    if config["image"] is not None:
        # The limit refuses images; it does not change what the tower saw.
        parts["image"] = {key: value for key, value in config["image"].items() if key != "max_pixels"}
    return parts


def identity(
    tower: str, preprocessing: Preprocessing, source: Source, *, embed_dim: int, dtype: str, shard_records: int
) -> dict[str, Any]:
    """Returns the identity of stored embeddings: the manifest without its counts.

    Raises:
        ValueError: an unknown dtype, or shards without records.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {sorted(DTYPES)}. Received: {dtype!r}")
    if shard_records < 1:
        raise ValueError(f"shard_records must be at least 1. Received: {shard_records}")
    return {
        "version": VERSION,
        "tower": tower,
        "preprocessing": describe(preprocessing),
        "source": {"name": source.name, "fingerprint": source.fingerprint, "size": source.size},
        "embed_dim": embed_dim,
        "dtype": dtype,
        "shard_records": shard_records,
    }


def shard_name(number: int, count: int) -> str:
    """Returns the file name of a shard."""
    return f"shard-{number:05d}-of-{count:05d}.safetensors"


def write_shard(path: str, arrays: dict[str, np.ndarray], skipped: Mapping[str, int]) -> None:
    """Writes one shard in the safetensors format. `skipped` is the number of broken records by cause."""
    codes = {np.dtype(dtype): code for code, dtype in _TYPE_CODES.items()}
    header: dict[str, Any] = {"__metadata__": {"skipped": json.dumps(dict(skipped), sort_keys=True)}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": codes[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    contents = (np.ascontiguousarray(array).view(np.uint8).tobytes() for array in arrays.values())
    write_file(path, [len(text).to_bytes(8, "little"), text, *contents])


def read_shard(path: str) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Returns a shard's arrays and its skipped records by cause. Local files are mapped, remote files are read.

    Raises:
        ValueError: the file is truncated or is not a shard.
    """
    local = "://" not in path
    data = np.memmap(path, np.uint8, "r") if local else np.frombuffer(tf.io.gfile.GFile(path, "rb").read(), np.uint8)
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    try:
        header = json.loads(data[8:start].tobytes())
        skipped = json.loads(header.pop("__metadata__")["skipped"])
        spans = {name: entry["data_offsets"] for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a shard of stored embeddings: {error}. Delete it and precompute it."
        ) from error
    if len(data) != start + max(end for _, end in spans.values()):
        raise ValueError(f"{path} is cut short ({len(data):,} bytes). Delete it and precompute it again.")
    arrays = {
        name: data[start + begin : start + end].view(_TYPE_CODES[header[name]["dtype"]]).reshape(header[name]["shape"])
        for name, (begin, end) in spans.items()
    }
    return arrays, skipped


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns a line for each entry of `wanted` whose value in `found` differs."""
    lines = []
    for key, value in wanted.items():
        other = found.get(key, _BEFORE_IT_WAS_STORED.get(f"{prefix}{key}"))
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            lines += differences(other, value, f"{prefix}{key}.")
        elif other != value:
            lines.append(f"{prefix}{key}: stored {other!r}, wanted {value!r}")
    return lines


class StoredEmbeddings:
    """A complete folder of stored embeddings, mapped into memory.

    Args:
        folder: where `siglip-tf precompute` wrote them. Use a local disk, preferably an SSD; the shards of
            a remote folder are read into memory.

    Attributes:
        size: number of images.
        texts: number of captions of all images.
        embed_dim: width of the embeddings.
        text_length: tokens per caption.
        manifest: the manifest's content.
        fingerprint: changes with anything stored.

    Raises:
        ValueError: the manifest is missing or unfinished, or shards are missing, truncated, or of other sizes.

    Example:
        stored = StoredEmbeddings("embeddings/cc3m-b16")
        stored.check(preprocessing=model.preprocessing)
        model.fit(EmbeddingData(stored, global_batch=4096).dataset(), steps_per_epoch=1000)
    """

    def __init__(self, folder: str | Path):
        self.folder = str(folder)
        path = f"{self.folder}/{MANIFEST}"
        if not tf.io.gfile.exists(path):
            raise ValueError(f"{self.folder} holds no {MANIFEST}: no embeddings are stored there.")
        with tf.io.gfile.GFile(path) as file:
            self.manifest = json.load(file)
        if self.manifest.get("version") != VERSION:
            raise ValueError(f"Expected stored embeddings of version {VERSION}. Received: {path} of another.")
        if "shards" not in self.manifest:
            raise ValueError(f"{self.folder} is unfinished: run the same precompute_embeddings command again.")
        shards = self.manifest["shards"]
        self._shards = [read_shard(f"{self.folder}/{shard['file']}")[0] for shard in shards]
        for shard, arrays in zip(shards, self._shards, strict=True):
            if [len(arrays["image_embedding"]), len(arrays["text"])] != [shard["images"], shard["texts"]]:
                raise ValueError(f"{self.folder}/{shard['file']} is not the shard that {MANIFEST} counts.")
        self._starts = np.cumsum([0, *(shard["images"] for shard in shards)])
        self.size = int(self._starts[-1])
        if not self.size:
            counts = self.manifest["counts"]
            causes = ", ".join(f"{count} {cause}" for cause, count in counts["skipped"].items())
            raise ValueError(
                f"{self.folder} holds no embeddings: {counts['read']} of {counts['read']} records are broken "
                f"({causes}). Mend the data, and precompute the embeddings into another folder."
            )
        self.texts = sum(shard["texts"] for shard in shards)
        self.embed_dim = self.manifest["embed_dim"]
        self.text_length = self.manifest["preprocessing"]["text"]["length"]
        self.dtype = tf.as_dtype(self.manifest["dtype"])
        self.fingerprint = fingerprint_of(json.dumps(self.manifest, sort_keys=True))

    def check(self, tower: str | None = None, preprocessing: Preprocessing | None = None) -> None:
        """Raises an error unless the embeddings come from this tower and preprocessing.

        Args:
            tower: `tower_fingerprint` of the image tower that the embeddings must come from.
            preprocessing: the preprocessing that they must have been made with. Without an image part, only texts are
                compared.

        Raises:
            ValueError: the embeddings differ; the message names every difference.
        """
        wanted: dict[str, Any] = {} if tower is None else {"tower": tower}
        if preprocessing is not None:
            wanted["preprocessing"] = describe(preprocessing)
        if lines := differences(self.manifest, wanted):
            raise ValueError(
                f"The embeddings in {self.folder} belong to another model:\n  " + "\n  ".join(lines) + "\n"
                "Precompute them with this model, or train the model that they come from."
            )

    def gather(self, images: np.ndarray, choices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns pairs of an image and one of its captions.

        Args:
            images: int64 (batch,), each in [0, size).
            choices: int64 (batch,), >= 0; taken modulo the number of the image's captions.

        Returns:
            embeddings: stored dtype (batch, embed_dim).
            texts: int32 (batch, text_length).
        """
        embeddings = np.empty((len(images), self.embed_dim), self.dtype.as_numpy_dtype)
        texts = np.empty((len(images), self.text_length), np.int32)
        order = np.argsort(images, kind="stable")
        borders = np.searchsorted(images[order], self._starts)
        for number in np.flatnonzero(np.diff(borders)):
            shard, places = self._shards[number], order[borders[number] : borders[number + 1]]
            rows = images[places] - self._starts[number]
            embeddings[places] = shard["image_embedding"][rows]
            first = shard["first_text"][rows]
            texts[places] = shard["text"][first + choices[places] % (shard["first_text"][rows + 1] - first)]
        return embeddings, texts
