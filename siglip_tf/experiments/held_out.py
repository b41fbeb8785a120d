"""Data with a part held out of training, and how a model is judged on that part: synthetic scenes, or own pictures."""

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

# Read in Python for evaluation and for the report.
MAX_EVALUATED = 2_000
MAX_ON_THE_WAY = 500  # in each evaluation while training, which training waits for
_TOKENIZER_EXAMPLES = 3_000
_PROMPTS = 4
_FALLBACK_PROMPTS = ("{}", "a photo of {}", "a picture of {}")
# Names that a held-out part goes by, most final first.
_HELD_OUT_SPLITS = ("test", "validation", "val", "dev")
_MAX_CAPTIONS_READ = 50_000
_MAX_EXPLAINED = 100  # broken records whose causes an error counts

# Of a source without splits, such as shards: the last records, this share of them and at most so many.
_LAST_SHARE, _LAST_MOST = 0.05, 2_000
_MAX_COMPARED = 200_000  # captions of training that held-out captions are compared with
_MAX_GROUPS = 2_000_000  # records of training that held-out groups are compared with; `_MAX_COMPARED` of remote shards

# Graph code here has no Python control flow to convert.
_as_written = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """One data set with its held-out part.

    Attributes:
        title: of the report.
        train: what is trained on.
        held_out: what is evaluated on: retrieval, and zero-shot where there are labels.
        seen: further pictures like those trained on, for comparison; None if there are none.
        texts: what the tokenizer is trained on.
        vocabulary: how many pieces it may have.
        labels: class names by label, as they stand in `templates`; empty without labels.
        templates: prompts with one `{}`.
        held_out_labels: the classes of `held_out`, where they are fewer than all.
        zero_shot_goal: accuracy aimed at.
        chance_times_goal: how many times chance the recall at 1 is aimed at.
        held_out_name: what the held-out part is, in words.
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
    """The synthetic data set: pictures without end, evaluated on compositions that training never shows.

    Args:
        seed: names the data set.
        images: how many pictures each evaluation takes.
        image_size: side of the pictures in pixels.
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
    """The held-out part of what the settings train on.

    Args:
        c: the settings.
        synthetic: whether the run trains on drawn scenes.
        pictures: how many scenes each evaluation takes.
    """
    if synthetic:
        return scenes(c.seed, pictures, min(256, max(32, c.model.image_size)))
    from siglip_tf.experiments.build import named_data

    return own_data(named_data(c), c.split)


def own_data(spec: str, split: str | None = None) -> HeldOut:
    """The user's own pictures, with a held-out part.

    The held-out part is the split called test, validation, val or dev; of shards, which have no splits, the last
    twentieth, at most 2,000 records, without those of a group that training shows as well. Where there are no labels,
    records whose captions training shows are left out too: a picture's twin would make the task too easy. A split that
    the data name is taken as it is where there are labels. Zero-shot accuracy is measured where records have labels;
    its prompts are the sentences in which the training captions most often name a label.

    Args:
        spec: see `siglip_tf.data.sources.opening`.
        split: the split to train on; "train" by default.

    Raises:
        ValueError: nothing there to train on, nothing held out, or nothing left of it.
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
    """The held-out part as a task of `siglip_tf.evaluation`: zero-shot where there are labels, else retrieval.

    It is called "held_out" and has at most `MAX_ON_THE_WAY` pictures, evenly spread. Records that cannot be used are
    left out.

    Args:
        held_out: the part.

    Raises:
        TooManyBadRecordsError: no record can be used; it says why.
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
    """Some records of another source, numbered from 0.

    Args:
        source: the other source.
        indices: int64 (size,), the records.
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
        if self._in_a_row:  # no table of millions of numbers in the graph
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
    """What is trained on, what is held out, and whether the data name these splits."""
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
    """The held-out part without records of a group that training shows.

    If nothing else is left of a split that the data name, it is taken as it is.

    Raises:
        ValueError: nothing is left of a split that was made here.
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
    """The held-out part without records whose captions all occur in training; the whole if nothing else is left."""
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
    """Applies `chosen` to some records, in order; each remote shard is read once."""
    if source.runs is None:  # one function, in which TensorFlow finds that no picture is asked for
        return tf.data.Dataset.range(start, stop).map(
            _as_written(lambda index: chosen(source.read(index))), num_parallel_calls=tf.data.AUTOTUNE
        )
    return in_order(source, start, stop).map(_as_written(lambda _, example: chosen(example)))


def _numbered(source: Source, chosen: Callable[[dict[str, tf.Tensor]], tf.Tensor]) -> Iterator[tuple[int, Any]]:
    """Every record's number with what `chosen` takes of it; None of a broken one, which is counted where it is used."""
    iterator = _each(source, 0, source.size, chosen).as_numpy_iterator()
    for index in range(source.size):
        try:
            value = next(iterator)
        except tf.errors.OpError:
            value = None
        yield index, value


def captions_of(source: Source, limit: int = _MAX_CAPTIONS_READ) -> Iterator[str]:
    """The captions of a source's first records; records that cannot be read or hold no UTF-8 are passed over."""
    read = _each(source, 0, min(source.size, limit), lambda example: example["captions"])
    for captions in read.ignore_errors().as_numpy_iterator():
        for caption in captions:
            text = caption.decode(errors="replace")
            if "\ufffd" not in text:
                yield text


def prompts_from_captions(captions: Iterable[str], labels: Sequence[str]) -> list[str]:
    """The sentences in which captions name labels, most widely used first: the wording that the model has learned.

    Args:
        captions: of training pictures.
        labels: class names.

    Returns:
        At most `_PROMPTS` prompts with one `{}`; general ones where captions do not name labels in common sentences.
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
    """Labels given as numbers stand for themselves; none without labels."""
    read = _as_written(lambda index: source.read(index).get("label", -1))
    labels = tf.data.Dataset.range(source.size).map(read, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    largest = max(labels.as_numpy_iterator(), default=-1)
    return [str(label) for label in range(int(largest) + 1)]
