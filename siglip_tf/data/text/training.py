"""Trains SentencePiece vocabularies on a stream of texts, with the special ids of SigLIP's tokenizers.

Source: https://arxiv.org/abs/1808.06226; the ids of T5's `c4_en` vocabulary (SigLIP) and of Gemma's (SigLIP 2).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TextIO

import tensorflow as tf

from siglip_tf.data.sources.paths import open_binary
from siglip_tf.data.sources.tables.reading import check_not_utf16, csv_rows
from siglip_tf.data.sources.tables.rows import BrokenRow
from siglip_tf.data.text.captions import is_blank

# EOS is 1 in both. SigLIP pads with EOS and leaves id 0 unused; SigLIP 2 pads with 0.
ID_LAYOUTS: Final[dict[str, dict[str, Any]]] = {
    "siglip": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "siglip2": {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
}
MODEL_TYPES: Final = ("unigram", "bpe")
_MIN_VOCAB_SIZE: Final = 8
# SentencePiece silently drops longer texts, so this file divides them.
_MAX_TEXT_BYTES: Final = 4096


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 32_000,
    *,
    lower_case: bool = True,
    layout: str = "siglip",
    model_type: str = "unigram",
    character_coverage: float = 0.9999,
    byte_fallback: bool = False,
    max_texts: int | None = None,
    seed: int = 0,
) -> bytes:
    """Trains a SentencePiece model. The same texts and arguments give the same bytes.

    Args:
        texts: the texts, which are read once, one at a time. Line breaks separate texts. Blank texts are left out.
        vocab_size: largest number of pieces. A small corpus may give fewer pieces.
        lower_case: whether to lower-case texts first, as for SigLIP. If so, tokenize with `lower_case=True`, too.
        layout: "siglip" (pad 0, EOS 1, unknown 2) or "siglip2" (pad 0, EOS 1, BOS 2, unknown 3).
        model_type: "unigram" (SigLIP's) or "bpe" (SigLIP 2's). Use "bpe" for a corpus of few different words: unigram
            makes a word a piece only if it also occurs inside another word, and spells all other words.
        character_coverage: fraction of all characters that get a piece of their own, from 0.9 to 1. The rest become
            unknown, or bytes.
        byte_fallback: spell unknown characters as UTF-8 bytes, which takes 256 pieces.
        max_texts: how many texts are held in memory, as a random sample of the stream. None holds all texts.
        seed: seed of that sample.

    Returns:
        The bytes of a `.model` file, which `Tokenizer` and Hugging Face's `SiglipTokenizer` can load.

    Raises:
        ValueError: an argument is out of range, there is no text, or the vocabulary is too small for the characters.
    """
    import sentencepiece

    if layout not in ID_LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(ID_LAYOUTS)}. Received: {layout!r}")
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type must be one of {', '.join(MODEL_TYPES)}. Received: {model_type!r}")
    smallest = _MIN_VOCAB_SIZE + 256 * byte_fallback
    if vocab_size < smallest:
        raise ValueError(f"vocab_size must be at least {smallest}. Received: {vocab_size}")
    if not 0.9 <= character_coverage <= 1:
        raise ValueError(f"character_coverage must be in [0.9, 1]. Received: {character_coverage}")
    if max_texts is not None and max_texts < 1:
        raise ValueError(f"max_texts must be at least 1, or None. Received: {max_texts}")

    pieces = _pieces(texts, lower_case)
    counted = _Counted(pieces if max_texts is None else iter(_sample(pieces, max_texts, seed)))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=counted,
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            byte_fallback=byte_fallback,
            minloglevel=2,
            **ID_LAYOUTS[layout],
        )
    except RuntimeError as error:
        if not counted.count:
            raise ValueError("There is no text to train a tokenizer on.") from error
        raise ValueError(f"SentencePiece found no vocabulary of {vocab_size} pieces in the texts: {error}") from error
    return model.getvalue()


class _Counted:
    """An iterator that counts its items."""

    def __init__(self, items: Iterator[str]):
        self._items = items
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        item = next(self._items)
        self.count += 1
        return item


def _pieces(texts: Iterable[str], lower_case: bool) -> Iterator[str]:
    """Yields lines that SentencePiece accepts: not empty, not too long, and without NUL."""
    for text in texts:
        lowered = text.lower() if lower_case else text
        # Do not use `str.splitlines`, because it also splits at separators that occur inside captions.
        for line in re.split(r"[\r\n]+", lowered.replace("\0", " ")):
            stripped = line.strip()
            while len(stripped.encode()) > _MAX_TEXT_BYTES:
                head = stripped.encode()[:_MAX_TEXT_BYTES].decode(errors="ignore")
                yield head
                stripped = stripped[len(head) :].strip()
            if stripped:
                yield stripped


def _sample(items: Iterable[str], size: int, seed: int) -> list[str]:
    """Draws a uniform sample of a stream (reservoir sampling). SentencePiece can seed its own only once per process."""
    generator = random.Random(seed)
    sample: list[str] = []
    for number, item in enumerate(items):
        if number < size:
            sample.append(item)
        elif (place := generator.randrange(number + 1)) < size:
            sample[place] = item
    return sample


class TextFiles:
    """A stream of the texts in files: one text per line (`.txt`), or fields of JSONL, CSV, and TSV; also as `.gz`.

    Records without a usable text are left out and counted by cause in `skipped`. `texts` and `bytes_read` count what
    was read.

    Args:
        paths: local paths, or any paths that `tf.io.gfile` reads.
        fields: JSONL keys or CSV columns to read. A JSONL value may be a string or a list of strings.

    Raises:
        ValueError: there is no path, a suffix is unknown, or, while reading, a table cannot be read.
        FileNotFoundError: a path does not exist.
    """

    def __init__(self, paths: Sequence[str], fields: Sequence[str] = ("caption",)):
        if not paths:
            raise ValueError("Expected at least one file of texts.")
        for path in paths:
            _format_of(path)
            if not tf.io.gfile.exists(path):
                raise FileNotFoundError(f"There is no file {path!r}.")
        self.paths = tuple(paths)
        self.fields = tuple(fields)
        self.texts = 0
        self.bytes_read = 0
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[str]:
        readers = {"txt": self._lines, "jsonl": self._jsonl, "csv": self._csv, "tsv": self._csv}
        for path in self.paths:
            with _open_text(path) as file:
                for text in readers[_format_of(path)](file, path):
                    self.texts += 1
                    self.bytes_read += len(text)
                    yield text

    def _lines(self, file: TextIO, path: str) -> Iterator[str]:
        for line in file:
            if "\ufffd" in line:
                self.skipped["not UTF-8"] += 1
            elif not is_blank(line):
                yield line

    def _jsonl(self, file: TextIO, path: str) -> Iterator[str]:
        for line in file:
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                self.skipped["not JSON"] += 1
                continue
            if not isinstance(record, dict):
                self.skipped["not a JSON object"] += 1
                continue
            values = [record.get(field) for field in self.fields]
            yield from self._checked(
                text for value in values for text in (value if isinstance(value, list) else [value])
            )

    def _csv(self, file: TextIO, path: str) -> Iterator[str]:
        checked = False
        for row in csv_rows(file, path, "\t" if _format_of(path) == "tsv" else ","):
            if isinstance(row, BrokenRow):
                self.skipped["broken row"] += 1
                continue
            missing = [field for field in self.fields if field not in row]
            if missing and not checked:
                raise ValueError(f"{path} has no column {missing[0]!r}. Its columns are {', '.join(row)}.")
            checked = True
            values = [row[field] for field in self.fields]
            yield from self._checked(
                text for value in values for text in (value if isinstance(value, list) else [value])
            )

    def _checked(self, values: Iterable[Any]) -> Iterator[str]:
        for value in values:
            if not isinstance(value, str) or is_blank(value):
                self.skipped["no text"] += 1
            elif "\ufffd" in value:
                self.skipped["not UTF-8"] += 1
            else:
                yield value


def _format_of(path: str) -> str:
    suffix = path.lower().removesuffix(".gz").rpartition(".")[2]
    suffix = {"json": "jsonl", "ndjson": "jsonl", "text": "txt"}.get(suffix, suffix)
    if suffix not in ("txt", "jsonl", "csv", "tsv"):
        raise ValueError(f"Expected a .txt, .jsonl, .csv or .tsv file, perhaps with .gz. Received: {path!r}")
    return suffix


@contextlib.contextmanager
def _open_text(path: str) -> Iterator[TextIO]:
    """Opens a text file. Invalid bytes become U+FFFD, whose texts the readers skip and count; a BOM is dropped."""
    with open_binary(path) as binary:
        zipped = path.lower().endswith(".gz")
        file: Any = io.BufferedReader(gzip.GzipFile(fileobj=binary)) if zipped else binary
        try:
            check_not_utf16(file.peek(1024)[:1024], path)
            yield io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is not a whole gzip file: {error}") from error
