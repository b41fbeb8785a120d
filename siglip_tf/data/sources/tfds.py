"""TensorFlow Datasets with an image and a text or a label: `coco_captions`, `imagenet2012`, and the like.

`TfdsReader` knows which features of a data set make an example. Training uses it through `open_tfds`, evaluation
through `siglip_tf.evaluation.tfds_sets`. A data set stored as TFRecord, TFDS's default, is read in the graph by the
same index as other TFRecord shards. A data set stored as ArrayRecord is read by TFDS's own random access
(`as_data_source`) and parsed in the graph.

Source: https://www.tensorflow.org/datasets/api_docs/python/tfds
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.class_names import spoken
from siglip_tf.data.sources.groups import groups_in_graph
from siglip_tf.data.sources.shards.record_file import Parse, RecordFileSource

_CAPTION_FEATURES = ("captions/text", "captions", "caption", "text", "sentences/raw", "description")
_ID_FEATURES = ("image/filename", "file_name", "filename", "image/id", "image_id", "id", "key")


def open_builder(name: str, data_dir: str | None = None) -> Any:
    """Returns TFDS's builder of a data set.

    Raises:
        ValueError: TFDS is not installed, or it does not know the data set.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError("Data sets by name need the `data` extra: pip install 'siglip-tf[data]'.") from error
    try:
        return tfds.builder(name, **({"data_dir": data_dir} if data_dir else {}))
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"TensorFlow Datasets knows no {name!r}: {error}") from error


def open_tfds(
    name: str,
    split: str = "train",
    *,
    data_dir: str | None = None,
    captions: str | None = None,
    template: str = "{}",
    group: str | None = None,
    index_dir: str | None = None,
    verbose: bool = True,
) -> Source:
    """Opens a data set of TFDS. Downloads and prepares it if necessary.

    Args:
        name: as `tfds.builder` takes it, e.g. "coco_captions", "imagenet2012", "imagenet_v2/matched-frequency".
        split: name of a split, without slices.
        data_dir: TFDS's folder.
        captions: the feature with the captions, e.g. "captions/text". None searches common names; if there are no
            captions, the class name of the label is the caption.
        template: the caption made from a class name, with `{}` for the name.
        group: the feature with each record's group, a whole number or a text, or None.
        index_dir: folder for the index of TFRecord files; by default the folder `.index` beside them.
        verbose: whether to show the progress of indexing.

    Returns:
        A source whose captions, or class names, come from the data set's features.

    Raises:
        ValueError: the data set or split is unknown, or it has no image, or neither text nor class names.
    """
    builder = open_builder(name, data_dir)
    builder.download_and_prepare()
    splits = builder.info.splits
    if splits and split not in splits:
        raise ValueError(f"{name} has the splits {sorted(splits)}. Received: {split!r}")
    reader = TfdsReader(builder, captions, template, group=group)
    if reader.captions is None and reader.class_names is None:
        raise ValueError(f"{name} has neither captions nor class names: name the captions. {reader.known}")
    signature = repr((split, captions, template, *([group] if group else [])))
    title = f"tfds:{builder.info.full_name} ({split})"
    if splits and builder.info.file_format.value == "tfrecord":
        paths = [str(path) for path in splits[split].filepaths]
        # The data set's metadata holds the number of records in each file.
        lengths = np.array(splits[split].shard_lengths, np.int64)
        counts = lengths if len(lengths) == len(paths) else None
        source: Source = RecordFileSource(
            paths,
            reader.parser(),
            name=title,
            signature=signature,
            index_dir=index_dir,
            counts=counts,
            verbose=verbose,
        )
    else:
        import tensorflow_datasets as tfds

        # Read raw bytes, because TFDS's own deserialization runs in Python and decodes the images.
        data = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        source = _DataSource(data, reader.parser(), title, signature)
    source.class_names, source.has_groups = reader.class_names, group is not None
    source.notes = (f"captions from {reader.captions or f'the names of {reader.label!r}'}",)
    return source


class TfdsReader:
    """Finds the features of a data set that make an example, and makes examples from them.

    Args:
        builder: TFDS's builder of the data set.
        captions: the feature with the captions. None searches common names.
        template: the caption made from a class name, with `{}` for the name.
        labels: features that may be the label, the best first. By default any feature of class names.
        group: the feature of the group, or None.

    Attributes:
        image, label, captions, id: names of the features. The last three are None if there is no such feature.
        class_names: names of the labels, or None.
        known: a sentence that lists the features.
        decoding: the TFDS decoding that reads these features alone and leaves the image encoded.

    Raises:
        ValueError: there is no image, the feature of captions is unknown, or the group is neither a whole number nor a
            text.
    """

    def __init__(
        self,
        builder: Any,
        captions: str | None = None,
        template: str = "{}",
        labels: Sequence[str] | None = None,
        group: str | None = None,
    ):
        import tensorflow_datasets as tfds

        self._all = builder.info.features
        features = _flat(self._all)
        self.known = f"Its features: {', '.join(sorted(features))}"
        images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
        if not images or images[0] not in self._all:
            raise ValueError(f"{builder.name} has no feature `image`. {self.known}")
        if captions is not None and captions not in features:
            raise ValueError(f"{builder.name} has no feature {captions!r}. {self.known}")
        self.group = group
        if group is not None:
            kind = tf.as_dtype(features[group].tf_dtype) if group in features else None
            if kind is None or features[group].shape or not (kind.is_integer or kind == tf.string):
                received = "no such feature" if kind is None else f"{kind.name} {features[group].shape}"
                raise ValueError(
                    f"Expected the group feature {group!r} of {builder.name} as one whole number or text. Received: "
                    f"{received}. {self.known}"
                )
        self.image = "image" if "image" in images else images[0]
        self.label = _label(self._all, features, labels)
        self.captions = captions or next((key for key in _CAPTION_FEATURES if _is_text(features.get(key))), None)
        self.id = next((key for key in _ID_FEATURES if key in features), None)
        # If the label is a sequence, the feature inside it has the names.
        named = getattr(features[self.label], "feature", features[self.label]) if self.label else None
        self.class_names = getattr(named, "names", None)
        self._names_as_captions = [template.format(spoken(name)) for name in self.class_names or ()]
        wanted: dict[str, Any] = {}
        for key in filter(None, (self.image, self.label, self.captions, self.id, self.group)):
            folder, _, leaf = key.partition("/") if key not in self._all else (key, "", "")
            wanted[folder] = {**wanted.get(folder, {}), leaf: True} if leaf else True
        self.decoding = tfds.decode.PartialDecoding(wanted, decoders={self.image: tfds.decode.SkipDecoding()})

    def example(self, features: dict[str, Any]) -> dict[str, tf.Tensor]:
        """Turns TFDS's example, with its image encoded, into a raw example, as `Source.read` returns it."""
        flat = _flat(features)
        example = {"image": flat[self.image]}
        label = tf.cast(flat[self.label], tf.int32) if self.label else None
        if self.captions:
            example["captions"] = tf.reshape(flat[self.captions], [-1])
        elif label is not None and self._names_as_captions:
            # A label below 0 means that the record has no label.
            labels = tf.reshape(label, [-1])
            example["captions"] = tf.gather(self._names_as_captions, tf.boolean_mask(labels, labels >= 0))
        if label is not None:
            example["label"] = label
        if self.group:
            example["group"] = groups_in_graph(flat[self.group])
        if self.id:
            name = flat[self.id]
            example["id"] = name if name.dtype == tf.string else tf.strings.as_string(name)
        return example

    def parser(self) -> Parse:
        """Returns a function that turns a serialized record into a raw example, in the graph."""
        features = self.decoding.extract_features(self._all)
        return lambda record: self.example(features.deserialize_example(record, decoders=self.decoding.decoders))


def _label(features: Any, flat: dict[str, Any], known: Sequence[str] | None) -> str | None:
    import tensorflow_datasets as tfds

    if known is not None:
        return next((key for key in known if key in features), None)
    # A label inside a sequence describes a part of the image, so it does not count.
    labels = [key for key, f in flat.items() if isinstance(f, tfds.features.ClassLabel) and key in features]
    return "label" if "label" in labels else next(iter(labels), None)


class _DataSource(Source):
    """Reads serialized records by TFDS's own random access, with one call of Python per record."""

    def __init__(self, data: Any, parse: Parse, name: str, signature: str):
        self._data = data
        self._parse = parse
        self.size = len(data)
        self.name = name
        self.fingerprint = fingerprint_of(name, signature, self.size)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads one raw example in the graph."""
        record = tf.numpy_function(lambda number: bytes(self._data[int(number)]), [index], tf.string)
        example = self._parse(tf.ensure_shape(record, []))
        example.setdefault("id", tf.strings.as_string(index))
        return example

    def locate(self, index: int) -> tuple[str, int]:
        """Returns the data set and the record's number in its split."""
        return self.name, index


def _flat(features: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested features, or their values, to names joined with "/". Sequences of named features count, too."""
    inner = getattr(features, "feature", features)
    if not hasattr(inner, "items"):
        return {prefix: features}
    flat: dict[str, Any] = {}
    for key, value in inner.items():
        flat |= _flat(value, f"{prefix}/{key}" if prefix else key)
    return flat


def _is_text(feature: Any) -> bool:
    if feature is None:
        return False
    return tf.as_dtype(getattr(feature, "feature", feature).tf_dtype) == tf.string
