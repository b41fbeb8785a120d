"""TFRecord shards of `tf.train.Example`s, as img2dataset writes them, or with features that the user names.

Source: img2dataset's `tfrecord` output (features "key", "jpg", "txt"); TensorFlow's guide "TFRecord and
tf.train.Example".
"""

from collections.abc import Sequence

import tensorflow as tf
from google.protobuf.message import DecodeError

from siglip_tf.data.sources.groups import NO_GROUP, group_number, groups_in_graph
from siglip_tf.data.sources.paths import find_shards, shards_name
from siglip_tf.data.sources.shards.record_file import Parse, RecordFileSource

# For each field: the common names of its feature, and the kinds of list that it can be read from.
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "image": (("jpg", "image", "image/encoded", "png", "webp", "jpeg"), ("bytes_list",)),
    "caption": (("txt", "caption", "captions", "text", "image/caption", "image/captions"), ("bytes_list",)),
    "id": (("key", "id", "image/id", "image/key", "__key__"), ("bytes_list", "int64_list")),
    "label": (("label",), ("bytes_list", "int64_list")),
    "language": ((), ("bytes_list",)),
    "group": (("group",), ("bytes_list", "int64_list")),
}
_REQUIRED = ("image", "caption")
_INTEGER = r"\s*-?\d{1,9}\s*"


class TFRecordSource(RecordFileSource):
    """TFRecord shards of `tf.train.Example`s with an encoded image and one or several captions.

    Args:
        shards: path, glob, brace range, folder, or a list of these.
        image, caption, id, label, language, group: names of the features. None searches img2dataset's and other common
            names. A caption feature may hold several captions; `language` must then hold as many values. A label that
            is a text and not a number is ignored.
        suffix: the suffix of the shards in a folder, if it is not ".tfrecord" or a usual variant.
        index_dir, random_access, verbose: see `RecordFileSource`.

    Raises:
        ValueError: there are no shards, they are compressed, or the first record lacks a feature or holds it in
            another type.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        *,
        image: str | None = None,
        caption: str | None = None,
        id: str | None = None,
        label: str | None = None,
        language: str | None = None,
        group: str | None = None,
        suffix: str | None = None,
        index_dir: str | None = None,
        random_access: bool | None = None,
        verbose: bool = True,
    ):
        paths = find_shards(shards, suffix or ".tfrecord")
        first = _first_record(paths)
        given = {"image": image, "caption": caption, "id": id, "label": label, "language": language, "group": group}
        names = {field: _choose(field, given[field], first) for field in _FIELDS}
        self.features = {
            "captions" if field == "caption" else field: name for field, name in names.items() if name is not None
        }
        self.has_groups = "group" in self.features
        kinds = {field: _kind(first[name]) for field, name in self.features.items()}
        self.notes = (f"features: {', '.join(f'{field} from {name!r}' for field, name in self.features.items())}",)
        super().__init__(
            paths,
            _parser(self.features, kinds),
            name=shards_name(shards, paths),
            signature=repr(sorted(self.features.items())),
            index_dir=index_dir,
            random_access=random_access,
            verbose=verbose,
        )


def _parser(names: dict[str, str], kinds: dict[str, str]) -> Parse:
    spec = {
        name: tf.io.RaggedFeature(tf.int64 if kinds[field] == "int64_list" else tf.string)
        for field, name in names.items()
    }

    def parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_single_example(record, spec)
        values = {field: parsed[name] for field, name in names.items()}
        example = {"image": tf.strings.reduce_join(values["image"][:1]), "captions": values["captions"]}
        if "id" in values:
            text = values["id"] if values["id"].dtype == tf.string else tf.strings.as_string(values["id"])
            example["id"] = tf.strings.reduce_join(text[:1])
        if "label" in values:
            example["label"] = tf.concat([_integers(values["label"]), [-1]], 0)[0]
        if "language" in values:
            example["language"] = values["language"]
        if "group" in values:
            example["group"] = tf.concat([groups_in_graph(values["group"]), [NO_GROUP]], 0)[0]
        return example

    return parse


def _integers(values: tf.Tensor) -> tf.Tensor:
    """Returns int32 labels, shaped like `values`: numbers, numbers that texts spell, or -1 (no label) otherwise."""
    if values.dtype == tf.string:
        spelled = tf.where(tf.strings.regex_full_match(values, _INTEGER), tf.strings.strip(values), "-1")
        values = tf.strings.to_number(spelled, tf.int64)
    return tf.cast(tf.where(tf.abs(values) < 1 << 31, values, -1), tf.int32)


def _first_record(paths: Sequence[str]) -> dict[str, tf.train.Feature]:
    """Returns the features of the first record that can be read."""
    for path in paths:
        for record in tf.data.TFRecordDataset(path).take(1).ignore_errors():
            try:
                features = tf.train.Example.FromString(record.numpy()).features.feature
            except DecodeError as error:
                raise ValueError(f"{path} holds no tf.train.Examples: {error}") from error
            return dict(features.items())
    raise ValueError(f"{paths[0]} holds no record that can be read. Are the shards TFRecord files, uncompressed?")


def _kind(feature: tf.train.Feature) -> str:
    return feature.WhichOneof("kind") or "bytes_list"


def _choose(field: str, given: str | None, first: dict[str, tf.train.Feature]) -> str | None:
    """Returns the feature of a field: the given one, or the first of the known names with a readable kind."""
    known, kinds = _FIELDS[field]
    if field == "group" and given is None and "group" in first:
        given = "group"  # Refuse a feature that cannot be read, rather than ignore it.
    if given is not None:
        if given not in first:
            raise ValueError(f"Expected {given!r} as the {field} feature. The first record holds {sorted(first)}.")
        if _kind(first[given]) not in kinds:
            floats = [round(value, 6) for value in first[given].float_list.value[:3]]
            raise ValueError(
                f"Expected the {field} feature {given!r} as {' or '.join(kinds)}. The first record holds it as "
                f"{_kind(first[given])}{f': {floats}' if floats else ''}."
            )
        values = first[given].bytes_list.value
        if field == "group":
            for value in [*values[:1], *first[given].int64_list.value[:1]]:
                group_number(value, f"the feature {given!r}")
        if field == "label" and values and not values[0].strip().removeprefix(b"-").isdigit():
            raise ValueError(
                f"Expected integers as the label feature {given!r}. The first record holds the text "
                f"{values[0][:40].decode(errors='replace')!r}."
            )
        return given
    name = next((name for name in known if name in first and _kind(first[name]) in kinds), None)
    if name is None and field in _REQUIRED:
        raise ValueError(
            f"Expected one of {', '.join(known)} as the {field} feature. The first record holds {sorted(first)}."
        )
    return name
