"""Image sets from TensorFlow Datasets: sets with labels, ReaL's label sets, and sets with captions."""

import re
from collections.abc import Sequence

from siglip_tf.data.sources.tfds import TfdsReader, open_builder
from siglip_tf.evaluation.image_set import ImageSet, pad_labels

_LABEL_KEYS = ("real_label", "label", "labels")
_WORDNET = re.compile(r"n\d{8}")


def tfds_set(
    name: str,
    split: str | None = None,
    data_dir: str | None = None,
    class_names: Sequence[str] | None = None,
) -> ImageSet:
    """Returns a prepared TFDS data set with encoded images.

    Args:
        name: the name of the set, for example "imagenet2012", "imagenet_v2", "imagenet2012_real", "oxford_iiit_pet",
            "cifar100", or "coco_captions".
        split: the split. The default is "test", or "validation" or "val" if there is no labeled "test".
        data_dir: the folder of TFDS. The default is TFDS's own default.
        class_names: names for the labels. The ImageNet sets need them, because they only have WordNet ids.

    Raises:
        ValueError: if TFDS is not installed, or the set is unknown, is not prepared, has no images, or needs class
            names.
    """
    builder = open_builder(name, data_dir)
    reader = TfdsReader(builder, labels=_LABEL_KEYS)
    split = split or _default_split(builder)
    try:
        examples = builder.as_dataset(
            split=split, decoders=reader.decoding, read_config=_read_config(), shuffle_files=False
        ).map(reader.example)
    except (AssertionError, FileNotFoundError) as error:
        raise ValueError(f"{name} is not prepared in {builder.data_dir}: run `tfds build {name}` first.") from error
    columns = examples.map(lambda example: {key: value for key, value in example.items() if key != "image"})
    rows = list(columns.as_numpy_iterator())
    if not rows:
        raise ValueError(f"{name}, split {split}, is empty.")
    # Class names serve as captions only in training.
    captions = tuple(
        tuple(caption.decode(errors="replace") for caption in (row["captions"] if reader.captions else ()))
        for row in rows
    )
    labels = pad_labels([row["label"] for row in rows]) if reader.label else None
    ids = tuple(row.get("id", b"").decode(errors="replace") or f"{i}" for i, row in enumerate(rows))
    names = _class_names(name, builder.info.features[reader.label], class_names) if reader.label else None
    return ImageSet(
        f"{name}-{split}",
        examples.map(lambda example: {"image": example["image"], "id": example.get("id", "")}),
        ids,
        labels,
        names,
        captions if any(captions) else None,
    )


def _read_config():
    import tensorflow_datasets as tfds

    return tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)


def _default_split(builder) -> str:
    # All labels of imagenet2012's "test" are -1. Published results use its "validation".
    wanted = ("validation",) if builder.name.startswith("imagenet2012") else ("test", "validation", "val")
    there = builder.info.splits
    return next((split for split in wanted if split in there), next(iter(there), wanted[0]))


def _class_names(name: str, feature, given: Sequence[str] | None) -> tuple[str, ...]:
    feature = getattr(feature, "feature", feature)  # ReaL has a sequence of labels
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
