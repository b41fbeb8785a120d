"""Image sets by their TensorFlow Datasets name: labelled ones, ReaL's label sets, and captioned ones."""

import re
from collections.abc import Sequence

import tensorflow as tf

from siglip_tf.evaluation.image_set import ImageSet, pad_labels

_LABEL_KEYS = ("real_label", "label", "labels")
_WORDNET = re.compile(r"n\d{8}")


def tfds_set(
    name: str,
    split: str | None = None,
    data_dir: str | None = None,
    class_names: Sequence[str] | None = None,
) -> ImageSet:
    """A prepared TFDS data set, its images left encoded.

    Args:
        name: e.g. "imagenet2012", "imagenet_v2", "imagenet2012_real", "oxford_iiit_pet", "cifar100", "coco_captions".
        split: by default "test", or "validation" or "val" where there is no labelled "test".
        data_dir: TFDS's folder; by default its own.
        class_names: names for the labels. The ImageNet sets know WordNet ids only, so they need them.

    Raises:
        ValueError: TFDS is not installed, the set is unknown or not prepared, has no images, or needs names.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError("Data sets by name need the `data` extra: pip install 'siglip-tf[data]'.") from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"TensorFlow Datasets knows no {name!r}: {error}") from error
    features = builder.info.features
    if "image" not in features:
        raise ValueError(f"{name} has no feature `image`, only {sorted(features)}.")
    split = split or _default_split(builder)
    try:
        examples = builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            shuffle_files=False,
        )
    except (AssertionError, FileNotFoundError) as error:
        raise ValueError(f"{name} is not prepared in {builder.data_dir}: run `tfds build {name}` first.") from error
    label_key = next((key for key in _LABEL_KEYS if key in features), None)
    columns = examples.map(lambda example: _columns(example, label_key)).as_numpy_iterator()
    rows = list(columns)
    if not rows:
        raise ValueError(f"{name}, split {split}, is empty.")
    captions = tuple(tuple(c.decode(errors="replace") for c in row.get("captions", ())) for row in rows)
    labels = pad_labels([row["label"] for row in rows]) if label_key else None
    ids = tuple(row["id"].decode(errors="replace") or f"{i}" for i, row in enumerate(rows))
    names = _class_names(name, features[label_key], class_names) if label_key else None
    return ImageSet(
        f"{name}-{split}",
        examples.map(lambda example: {"image": example["image"], "id": _id(example)}),
        ids,
        labels,
        names,
        captions if any(captions) else None,
    )


def _columns(example: dict, label_key: str | None) -> dict[str, tf.Tensor]:
    columns = {"id": _id(example)}
    if label_key:
        columns["label"] = example[label_key]
    captions = example.get("captions", example.get("caption"))
    if isinstance(captions, dict):
        captions = captions["text"]
    if captions is not None:
        columns["captions"] = tf.reshape(captions, [-1])
    return columns


def _id(example: dict) -> tf.Tensor:
    for key in ("file_name", "image/filename", "image/id", "filename"):
        if key in example:
            value = example[key]
            return value if value.dtype == tf.string else tf.strings.as_string(value)
    return tf.constant("")


def _default_split(builder) -> str:
    # The labels of imagenet2012's "test" are all -1: what is reported is its "validation".
    wanted = ("validation",) if builder.name.startswith("imagenet2012") else ("test", "validation", "val")
    there = builder.info.splits
    return next((split for split in wanted if split in there), next(iter(there), wanted[0]))


def _class_names(name: str, feature, given: Sequence[str] | None) -> tuple[str, ...]:
    feature = getattr(feature, "feature", feature)  # ReaL: a sequence of labels
    if given is not None:
        if len(given) != feature.num_classes:
            raise ValueError(f"{name} has {feature.num_classes} classes, {len(given)} names were given.")
        return tuple(given)
    if _WORDNET.fullmatch(feature.names[0]):
        raise ValueError(
            f"{name} names its classes by WordNet id ({feature.names[0]}, {feature.names[1]}, ...). "
            "Give English names with class_names=FILE, one a line in this order."
        )
    return tuple(feature.names)
