"""What a data set holds: counts, sizes, and lengths of its sound records, and the causes of its broken ones."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.images.decoding import picture_traits
from siglip_tf.data.images.graph import contains
from siglip_tf.data.images.header import FORMATS, image_format, image_size
from siglip_tf.data.order.bad_records import BadRecordReport, Explainer
from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.data.reading import some_in_order
from siglip_tf.data.sources.base import Source
from siglip_tf.data.text.captions import is_blank, usable_captions, usable_indices

_BATCH = 64
_TRAITS = ("turned", "transparent", "cmyk")
_CAPTION_TRAITS = {
    "control_characters": r"[\x00-\x08\x0e-\x1f\x7f]",
    "token_names": r"</?(s|eos|bos|pad|unk|mask)>",
}
# A picture whose darkest and brightest values differ by fewer levels (of 255) counts as a picture of one color.
_FLAT = 8


@dataclasses.dataclass(frozen=True)
class Sample:
    """A record as the model sees it.

    Attributes:
        name: the shard, and the record's number in the shard.
        id: the record's own name.
        pixels: uint8 (size, size, 3).
        caption: the first usable caption.
        seen: the text that the tokens spell, or None without a tokenizer.
        tokens: number of tokens in the caption, EOS included, before truncation; 0 without a tokenizer.
    """

    name: str
    id: str
    pixels: np.ndarray
    caption: str
    seen: str | None
    tokens: int


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The result of `inspect`.

    Attributes:
        source: the source's name.
        size: number of records in the source.
        read: number of records inspected; read = used + the sum of `skipped`.
        used: number of sound records among them.
        skipped: number of broken records by cause.
        broken: the first broken records, each with "shard", "offset", "id", "cause", "detail".
        heights, widths: int64 (used,), in pixels.
        bytes: int64 (used,), size of each encoded image.
        captions_an_image: int64 (used,), number of captions that are not blank.
        characters: int64 (captions,), length of each caption.
        tokens: int64 (captions,), EOS included, before truncation; None without a tokenizer.
        text_length: number of tokens that the model takes, or None.
        formats: records by image format.
        languages: captions by language, where the source has languages.
        labels: records by label, where the source has labels.
        repeated_captions: captions that repeat an earlier one.
        flat_images: images of one color.
        turned: images whose EXIF or XMP asks for a rotation or a mirror image.
        transparent: images with a pixel that is not opaque.
        cmyk: images stored in CMYK.
        control_characters: captions with NUL or another control character.
        token_names: captions that spell a special token, such as `</s>` or `<eos>`.
        samples: some sound records.
    """

    source: str
    size: int
    read: int
    used: int
    skipped: dict[str, int]
    broken: list[dict[str, Any]]
    heights: np.ndarray
    widths: np.ndarray
    bytes: np.ndarray
    captions_an_image: np.ndarray
    characters: np.ndarray
    tokens: np.ndarray | None
    text_length: int | None
    formats: dict[str, int]
    languages: dict[str, int]
    labels: dict[int, int]
    repeated_captions: int
    flat_images: int
    turned: int
    transparent: int
    cmyk: int
    control_characters: int
    token_names: int
    samples: list[Sample]

    @property
    def truncated(self) -> float | None:
        """The share of captions that lose tokens, or None without a tokenizer or captions."""
        return float(np.mean(self.tokens > self.text_length)) if self.tokens is not None and len(self.tokens) else None


def inspect(
    source: Source,
    preprocessing: Preprocessing,
    *,
    limit: int = 10_000,
    seed: int = 0,
    samples: int = 24,
    report: str | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Inspection:
    """Decodes and counts the records of a source, or a random sample of them.

    Args:
        source: the records.
        preprocessing: the model's preprocessing. Without a text part, no tokens are counted.
        limit: how many records to read. A source with runs is read in whole runs, which may be more records.
        seed: determines the random sample.
        samples: number of sound records to show.
        report: path of the JSONL report that names every broken record, or None.
        progress: called with the number of records done, the number of all records, and the seconds left.

    Raises:
        ValueError: a limit below 1, or a preprocessing without images.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1 record. Received: {limit}")
    image = preprocessing.fixed_image("An inspection")
    notes = BadRecordReport(report)
    records, chosen = some_in_order(source, limit, seed)
    found = _Found(preprocessing)
    begin = time.monotonic()
    for batch in _measured(records, preprocessing):
        found.add(batch)
        done = int(np.searchsorted(chosen, batch["record"][-1])) + 1
        if progress is not None:
            progress(done, len(chosen), (time.monotonic() - begin) / done * (len(chosen) - done))
    used = found.column("record")
    explain = Explainer(notes, image)
    skipped = Counter(explain(source, int(record)).value for record in np.setdiff1d(chosen, used))
    shown = np.sort(np.random.default_rng(seed).permutation(used)[:samples])
    return Inspection(
        source=source.name,
        size=source.size,
        read=len(chosen),
        used=len(used),
        skipped=dict(sorted(skipped.items())),
        broken=notes.first,
        heights=found.column("size")[:, 0],
        widths=found.column("size")[:, 1],
        bytes=found.column("bytes"),
        captions_an_image=found.column("captions"),
        characters=found.column("characters"),
        tokens=None if preprocessing.text is None else found.column("tokens"),
        text_length=None if preprocessing.text is None else preprocessing.text.length,
        formats={FORMATS[number]: count for number, count in found.formats.most_common()},
        languages=dict(found.languages.most_common()),
        labels=dict(sorted(found.labels.items())),
        repeated_captions=len(found.column("characters")) - len(found.different),
        flat_images=int((found.column("range") < _FLAT).sum()),
        **{name: int(found.column(name).sum()) for name in (*_TRAITS, *_CAPTION_TRAITS)},
        samples=[_sample(source, int(record), preprocessing) for record in shown],
    )


class _Found:
    """Collects columns of numbers, and counts, from one batch after another."""

    def __init__(self, preprocessing: Preprocessing):
        names = ("record", "bytes", "range", "captions", "characters", "tokens", *_TRAITS, *_CAPTION_TRAITS)
        self._columns = {name: [np.zeros(0, np.int64)] for name in names} | {"size": [np.zeros((0, 2), np.int64)]}
        self._text = preprocessing.text
        self.formats: Counter[int] = Counter()
        self.languages: Counter[str] = Counter()
        self.labels: Counter[int] = Counter()
        self.different: set[int] = set()

    def column(self, name: str) -> np.ndarray:
        """Returns all values of a column."""
        return np.concatenate(self._columns[name])

    def add(self, batch: dict[str, Any]) -> None:
        """Adds a batch of sound records."""
        texts = batch["texts"].flat_values
        values = {name: batch[name].numpy() for name in ("record", "bytes", "range", "size", *_TRAITS)}
        for name, pattern in _CAPTION_TRAITS.items():
            values[name] = contains(texts, pattern).numpy().astype(np.int64)
        values["captions"] = batch["texts"].row_lengths().numpy()
        values["characters"] = tf.strings.length(texts, unit="UTF8_CHAR").numpy().astype(np.int64)
        if self._text is not None:
            values["tokens"] = self._text.token_counts(texts).numpy().astype(np.int64)
        for name, value in values.items():
            self._columns[name].append(value)
        self.formats.update(batch["format"].numpy().tolist())
        self.different.update(map(hash, texts.numpy().tolist()))
        if "language" in batch:
            self.languages.update(name.decode() for name in batch["language"].flat_values.numpy().tolist() if name)
        if "label" in batch:
            self.labels.update(label for label in batch["label"].numpy().tolist() if label >= 0)


def _measured(records: tf.data.Dataset, preprocessing: Preprocessing) -> tf.data.Dataset:
    """Returns batches of sound records with their measurements; captions and languages are ragged."""

    @tf.autograph.experimental.do_not_convert
    def measure(record: tf.Tensor, example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        texts = usable_captions(example["captions"])
        with tf.control_dependencies([texts]):  # Fail before decoding an image that has no caption.
            data = tf.identity(example["image"])
        pixels = tf.cast(preprocessing.image.pixels(data, fused=True), tf.int64)
        row = {
            "record": record,
            "size": image_size(data),
            "bytes": tf.cast(tf.strings.length(data), tf.int64),
            "format": image_format(data),
            "range": tf.reduce_max(pixels) - tf.reduce_min(pixels),
            **{name: tf.cast(trait, tf.int64) for name, trait in picture_traits(data).items()},
            "texts": texts,
        }
        if "label" in example:
            row["label"] = example["label"]
        if "language" in example:
            row["language"] = tf.gather(example["language"], usable_indices(example["captions"]))
        return row

    rows = records.map(measure, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).ignore_errors()
    return rows.ragged_batch(_BATCH).prefetch(2)


def _sample(source: Source, record: int, preprocessing: Preprocessing) -> Sample:
    example = source.fetch(record)
    caption = next(text for text in example["captions"] if not is_blank(bytes(text).decode()))
    seen, tokens = None, 0
    if preprocessing.text is not None:
        seen = preprocessing.text.decode(preprocessing.text([caption])).numpy()[0].decode(errors="replace")
        tokens = int(preprocessing.text.token_counts([caption])[0])
    shard, offset = source.locate(record)
    return Sample(
        name=f"{shard}:{offset}",
        id=bytes(example["id"]).decode(errors="replace"),
        pixels=preprocessing.image.pixels(tf.constant(example["image"])).numpy(),
        caption=bytes(caption).decode(),
        seen=seen,
        tokens=tokens,
    )
