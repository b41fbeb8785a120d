"""Data with a part that is held out of training, and the tasks that evaluate a model on that part."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from siglip_tf.data.order.bad_records import BadRecordReport, Explainer, TooManyBadRecordsError
from siglip_tf.data.order.position import counts_text
from siglip_tf.data.preprocessing import ImagePreprocessing
from siglip_tf.data.reading import in_order
from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.groups import NO_GROUP
from siglip_tf.data.sources.opening import open_source
from siglip_tf.data.sources.options import joined_options, split_options
from siglip_tf.evaluation.image_set import from_examples
from siglip_tf.evaluation.tasks import RetrievalTask, Task, ZeroShotTask
from siglip_tf.synthetic import COMPOSITIONS, HELD_OUT, SceneSource
from siglip_tf.synthetic.captions import grammar_of
from siglip_tf.synthetic.composition import SceneObject
from siglip_tf.synthetic.grammar import Wording

MAX_EVALUATED = 2_000  # pictures in the evaluation at the end of a run
MAX_ON_THE_WAY = 500  # pictures in each evaluation during training, which has to wait for it
_TOKENIZER_EXAMPLES = 3_000
_PROMPTS = 4
_FALLBACK_PROMPTS = ("{}", "a photo of {}", "a picture of {}")
# Names of splits that are used as the held-out part, in order of preference.
_HELD_OUT_SPLITS = ("test", "validation", "val", "dev")
_MAX_CAPTIONS_READ = 50_000
_MAX_EXPLAINED = 100  # broken records whose causes an error message counts

# A source without splits, such as shards, holds out its last records: this fraction, and at most this number.
_LAST_SHARE, _LAST_MOST = 0.05, 2_000
_MAX_COMPARED = 200_000  # training captions that held-out captions are compared with
_MAX_GROUPS = 2_000_000  # training records that held-out groups are compared with; `_MAX_COMPARED` for remote shards

# The graph code in this module has no Python control flow to convert.
_as_written = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """One data set with its held-out part.

    Attributes:
        title: the title of the report.
        train: the training data.
        held_out: the evaluation data, for retrieval and, if there are labels, for zero-shot classification.
        seen: further pictures like those of `train`, for comparison, or None.
        texts: the texts on which the tokenizer is trained.
        vocabulary: the largest number of pieces of the tokenizer.
        labels: class names by label, as they are written in `templates`. Empty if there are no labels.
        templates: prompts with one `{}`.
        held_out_labels: the classes of `held_out`, if they are not all classes.
        zero_shot_goal: the zero-shot accuracy to reach, from 0 to 1.
        chance_times_goal: the recall at 1 to reach, as a multiple of chance.
        held_out_name: a description of the held-out part.
    """

    title: str
    train: Source
    held_out: Source
    texts: Iterable[str]
    vocabulary: int
    held_out_name: str
    seen: Source | None = None
    labels: Sequence[str] = ()
    templates: Sequence[str] = ("{}",)
    held_out_labels: Sequence[int] = ()
    zero_shot_goal: float | None = None
    chance_times_goal: float | None = None


def scenes(seed: int, images: int = 1_000, image_size: int = 64) -> HeldOut:
    """Returns the synthetic data set: endless pictures, with an evaluation on compositions that training never shows.

    Args:
        seed: the seed of the data set.
        images: how many pictures each evaluation uses.
        image_size: height and width of the pictures in pixels.
    """
    train = SceneSource("train", seed=seed, captions=1, image_size=image_size)
    words = SceneSource("train", seed=seed, captions=4)
    english = grammar_of("en")
    labels = [
        english.noun_phrase(SceneObject(shape, colour, "plain", "large", (1, 1)), Wording())
        for colour, shape in COMPOSITIONS
    ]
    return HeldOut(
        title="Drawn scenes",
        train=train,
        held_out=SceneSource("test", images, seed, captions=2, image_size=image_size),
        seen=SceneSource("validation", images, seed, captions=2, image_size=image_size),
        texts=(text for index in range(_TOKENIZER_EXAMPLES) for text in words.texts(index)),
        vocabulary=600,  # an upper bound: the scenes' English needs fewer
        held_out_name="compositions that training never shows",
        labels=labels,
        templates=[sentence.pattern for sentence in english.subject_sentences[:_PROMPTS]],
        held_out_labels=sorted(HELD_OUT),
        zero_shot_goal=0.9,
        chance_times_goal=20,
    )


def held_out_part(c: ConfigDict, synthetic: bool, pictures: int) -> HeldOut | None:
    """Returns the data of a run with its held-out part.

    Args:
        c: the settings.
        synthetic: whether the run trains on synthetic data.
        pictures: how many synthetic pictures each evaluation uses.
    """
    if synthetic:
        return scenes(c.seed, pictures, min(256, max(32, c.model.image_size)))
    from siglip_tf.experiments.build import named_data

    return own_data(named_data(c), c.split)


def own_data(spec: str, split: str | None = None) -> HeldOut:
    """Returns the user's own pictures with a held-out part.

    The held-out part is the split called test, validation, val, or dev. Shards have no splits; there, it is the last
    twentieth of the records, at most 2,000. Records of a group that training shows as well are left out. If there are
    no labels, records whose captions all occur in training are left out too, because a duplicate makes the task too
    easy. A split of labeled data is used unchanged. Zero-shot accuracy is measured if records have labels. Its prompts
    are the sentences in which the training captions most often name a label.

    Args:
        spec: a data source, see `siglip_tf.data.sources.opening`.
        split: the split to train on. The default is "train".

    Raises:
        ValueError: if there are no records to train on or none to hold out.
    """
    train, held_out, named = _parts(spec, split)
    labels = list(train.class_names or _numbered_labels(held_out))
    if train.has_groups and not (named and labels):
        held_out = _without_groups(held_out, train, named)
    if not labels:
        held_out = _without_twins(held_out, train)
    return HeldOut(
        title=split_options(spec)[0].rstrip("/").rpartition("/")[2],
        train=train,
        held_out=held_out,
        texts=captions_of(train),
        vocabulary=4_000,
        held_out_name=f"{held_out.size:,} pictures held out of training",
        labels=labels,
        templates=prompts_from_captions(captions_of(train), labels) if labels else ("{}",),
    )


def held_out_task(held_out: HeldOut) -> Task:
    """Returns the held-out part as a task: zero-shot classification if there are labels, else retrieval.

    The task is called "held_out" and has at most `MAX_ON_THE_WAY` pictures, evenly spread over the records. Records
    that cannot be used are left out.

    Args:
        held_out: the data.

    Raises:
        TooManyBadRecordsError: if no record can be used. The message says why.
    """
    source = held_out.held_out
    chosen = np.unique(np.linspace(0, source.size - 1, min(MAX_ON_THE_WAY, source.size)).astype(np.int64))
    records = tf.data.Dataset.from_tensor_slices(chosen).map(
        _as_written(source.read), num_parallel_calls=tf.data.AUTOTUNE
    )
    usable = records.ignore_errors().filter(_as_written(_is_usable))
    if not any(True for _ in usable.take(1)):
        explain = Explainer(BadRecordReport(None), ImagePreprocessing(32))
        causes = Counter(explain(source, int(record)).value for record in chosen[:_MAX_EXPLAINED])
        raise TooManyBadRecordsError(
            f"None of {len(chosen):,} records held out of {source.name} can be used: {counts_text(causes)} among the "
            f"first {causes.total():,}. Mend the data: `python -m tools.inspect_data` names each broken record."
        )
    images = from_examples("held_out", usable, held_out.labels or None)
    if held_out.labels:
        return ZeroShotTask(images, held_out.templates)
    return RetrievalTask(images)


def _is_usable(example: dict[str, tf.Tensor]) -> tf.Tensor:
    """Whether a picture decodes and has a caption."""
    return (tf.size(example["captions"]) > 0) & (tf.strings.length(example["image"]) > 0)


class PartOf(Source):
    """A source with some of the records of another source.

    Args:
        source: the other source.
        indices: int64 (size,), the numbers of the records in `source`.
    """

    def __init__(self, source: Source, indices: np.ndarray):
        self._source = source
        self._indices = np.asarray(indices, np.int64)
        self._in_a_row = bool((np.diff(self._indices) == 1).all())
        self.size = len(indices)
        self.name = source.name
        self.record_bytes = source.record_bytes
        self.class_names = source.class_names
        self.has_groups = source.has_groups
        self.fingerprint = fingerprint_of(source.fingerprint, self._indices.tobytes())
        if source.runs is not None:
            if not self._in_a_row:
                raise ValueError(f"Expected neighboring records of {source.name}, which is read in runs.")
            first = int(self._indices[0])
            inside = source.runs[(source.runs > first) & (source.runs < first + self.size)] - first
            self.runs = np.concatenate([[0], inside, [self.size]])

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        if self._in_a_row:  # avoids a table of millions of numbers in the graph
            return self._source.read(index + int(self._indices[0]))
        return self._source.read(tf.gather(tf.constant(self._indices), index))

    def read_run(self, start: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        if self.runs is None:
            return super().read_run(start, count)
        return self._source.read_run(start + int(self._indices[0]), count)

    def locate(self, index: int) -> tuple[str, int]:
        return self._source.locate(int(self._indices[index]))

    def fetch(self, index: int) -> dict[str, Any]:
        return self._source.fetch(int(self._indices[index]))


def _parts(spec: str, split: str | None) -> tuple[Source, Source, bool]:
    """Returns the training part, the held-out part, and whether they are splits that the data define."""
    path, options = split_options(spec)
    split = split or options.pop("split", None)
    options.pop("split", None)
    spec = joined_options(path, options)
    try:
        train = open_source(spec, split=split or "train")
    except ValueError as error:
        if "splits" not in str(error) or split is not None:
            raise
        whole = open_source(spec)
        held_out = min(int(_LAST_SHARE * whole.size), _LAST_MOST)
        if held_out < 1:
            raise ValueError(f"{spec} has {whole.size} records: too few to hold some out of training.") from error
        records = np.arange(whole.size)
        return PartOf(whole, records[:-held_out]), PartOf(whole, records[-held_out:]), False
    problems = []
    for name in _HELD_OUT_SPLITS:
        try:
            return train, open_source(spec, split=name), True
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(f"Nothing is held out of {spec}: call some rows of its split column 'test'. {problems[0]}")


def _without_groups(held_out: Source, train: Source, named: bool) -> Source:
    """Returns the held-out part without the records of a group that training shows.

    If nothing is left of a split that the data define, the split is used unchanged.

    Raises:
        ValueError: if nothing is left of a part that the data do not define.
    """

    def groups(example: dict[str, tf.Tensor]) -> tf.Tensor:
        return example["group"]

    most = _MAX_GROUPS if train.runs is None else _MAX_COMPARED
    rows = _each(train, max(0, train.size - most), train.size, groups).ignore_errors()
    known = {int(group) for group in rows.as_numpy_iterator()} - {NO_GROUP}
    kept = [index for index, group in _numbered(held_out, groups) if group is None or int(group) not in known]
    if not kept and not named:
        raise ValueError(
            f"Nothing is left to evaluate: each of the {held_out.size:,} records held out of {train.name} is of a "
            "group that training shows as well. Expected records of other groups at the end of the last shard, or "
            "tasks of their own by --evaluate."
        )
    return PartOf(held_out, np.array(kept)) if 0 < len(kept) < held_out.size else held_out


def _without_twins(held_out: Source, train: Source) -> Source:
    """Returns the held-out part without records whose captions all occur in training, or all of it if none is left."""
    known = set(captions_of(train, _MAX_COMPARED))
    kept = [
        index
        for index, captions in _numbered(held_out, lambda example: example["captions"])
        if captions is None or not all(text.decode(errors="replace") in known for text in captions)
    ]
    return PartOf(held_out, np.array(kept)) if 0 < len(kept) < held_out.size else held_out


def _each(
    source: Source, start: int, stop: int, chosen: Callable[[dict[str, tf.Tensor]], tf.Tensor]
) -> tf.data.Dataset:
    """Applies `chosen` to some records, in order. Each remote shard is read once."""
    if source.runs is None:  # in one function, TensorFlow can skip the reading of pictures that are not used
        return tf.data.Dataset.range(start, stop).map(
            _as_written(lambda index: chosen(source.read(index))), num_parallel_calls=tf.data.AUTOTUNE
        )
    return in_order(source, start, stop).map(_as_written(lambda _, example: chosen(example)))


def _numbered(source: Source, chosen: Callable[[dict[str, tf.Tensor]], tf.Tensor]) -> Iterator[tuple[int, Any]]:
    """Yields every record's number and what `chosen` returns for it, or None if the record is broken."""
    iterator = _each(source, 0, source.size, chosen).as_numpy_iterator()
    for index in range(source.size):
        try:
            value = next(iterator)
        except tf.errors.OpError:
            value = None
        yield index, value


def captions_of(source: Source, limit: int = _MAX_CAPTIONS_READ) -> Iterator[str]:
    """Yields the captions of a source's first records. Skips unreadable records and captions that are not UTF-8."""
    read = _each(source, 0, min(source.size, limit), lambda example: example["captions"])
    for captions in read.ignore_errors().as_numpy_iterator():
        for caption in captions:
            text = caption.decode(errors="replace")
            if "\ufffd" not in text:
                yield text


def prompts_from_captions(captions: Iterable[str], labels: Sequence[str]) -> list[str]:
    """Returns the sentences in which captions name labels, because the model has learned this wording.

    Args:
        captions: captions of training pictures.
        labels: class names.

    Returns:
        At most `_PROMPTS` prompts with one `{}`, the most widely used first. If captions do not name labels in common
        sentences, these are general prompts.
    """
    name = re.compile(r"\b(" + "|".join(sorted(map(re.escape, labels), key=len, reverse=True)) + r")\b", re.IGNORECASE)
    uses: Counter[str] = Counter()
    named: defaultdict[str, set[str]] = defaultdict(set)
    for caption in captions:
        match = name.search(caption)
        if match and "{" not in caption and "}" not in caption:
            sentence = caption[: match.start()] + "{}" + caption[match.end() :]
            uses[sentence] += 1
            named[sentence].add(match[0].lower())
    common = [sentence for sentence in uses if len(named[sentence]) > len(labels) / 2]
    common.sort(key=lambda sentence: (-len(named[sentence]), -uses[sentence], sentence))
    return common[:_PROMPTS] or list(_FALLBACK_PROMPTS)


def _numbered_labels(source: Source) -> list[str]:
    """Returns the names "0", "1", ... for labels without names, or an empty list if there are no labels."""
    read = _as_written(lambda index: source.read(index).get("label", -1))
    labels = tf.data.Dataset.range(source.size).map(read, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    largest = max(labels.as_numpy_iterator(), default=-1)
    return [str(label) for label in range(int(largest) + 1)]
