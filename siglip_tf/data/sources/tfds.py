"""TensorFlow Datasets with an image and a text or a label: `coco_captions`, `imagenet2012`, and the like.

A data set stored as TFRecord, TFDS's default, is read in-graph at any record by the same index as other TFRecord
shards; one stored as ArrayRecord through TFDS's own random access (`as_data_source`), parsed in-graph all the same.

Source: https://www.tensorflow.org/datasets/api_docs/python/tfds
"""

from typing import Any

import tensorflow as tf

from siglip_tf.data.sources.base import Source, fingerprint_of
from siglip_tf.data.sources.class_names import spoken
from siglip_tf.data.sources.record_file import Parse, RecordFileSource

_CAPTION_FEATURES = ("captions/text", "captions", "caption", "text", "sentences/raw", "description")
_ID_FEATURES = ("image/filename", "file_name", "filename", "image/id", "image_id", "id", "key")


def open_tfds(
    name: str,
    split: str = "train",
    *,
    data_dir: str | None = None,
    captions: str | None = None,
    template: str = "{}",
    index_dir: str | None = None,
    verbose: bool = True,
) -> Source:
    """A data set of TFDS, downloaded and prepared if it is not yet.

    Args:
        name: as `tfds.builder` takes it, e.g. "coco_captions", "imagenet2012", "imagenet_v2/matched-frequency".
        split: name of a split, without slices.
        data_dir: TFDS's folder.
        captions: the feature with the captions, e.g. "captions/text"; looked for where None. Without any, the class
            name of the label is the caption.
        template: caption of a class name, with `{}` for it.
        index_dir: where the index of TFRecord files is kept; a folder `.index` beside them by default.
        verbose: shows the indexing's progress.

    Returns:
        A source with one more attribute, `class_names`: names of the labels, or None.

    Raises:
        ValueError: no image, neither text nor class names, or an unknown split.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, **({"data_dir": data_dir} if data_dir else {}))
    builder.download_and_prepare()
    splits = builder.info.splits
    if splits and split not in splits:
        raise ValueError(f"{name} has the splits {sorted(splits)}. Received: {split!r}")
    reader = _Features(builder, captions, template)
    options = {"name": f"tfds:{builder.info.full_name} ({split})", "signature": repr((split, captions, template))}
    if splits and builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        paths = [str(path) for path in splits[split].filepaths]
        source: Source = RecordFileSource(paths, reader.parser(), index_dir=index_dir, verbose=verbose, **options)
    else:
        # Its own deserialisation is Python's, and decodes the images.
        data = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        source = _DataSource(data, reader.parser(), **options)
    source.class_names = reader.class_names
    return source


class _Features:
    """Which features of a data set make an example."""

    def __init__(self, builder: Any, captions: str | None, template: str):
        import tensorflow_datasets as tfds

        features = _flat(builder.info.features)
        known = f"Its features: {', '.join(sorted(features))}"
        images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
        labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
        # What lies inside a sequence labels a part of the image.
        labels = [key for key in labels if key in builder.info.features]
        if not images or images[0] not in builder.info.features:
            raise ValueError(f"{builder.name} has no image. {known}")
        if captions is not None and captions not in features:
            raise ValueError(f"{builder.name} has no feature {captions!r}. {known}")
        self.image = "image" if "image" in images else images[0]
        self.label = "label" if "label" in labels else next(iter(labels), None)
        self.captions = captions or next((key for key in _CAPTION_FEATURES if _is_text(features.get(key))), None)
        self.id = next((key for key in _ID_FEATURES if key in features), None)
        self.class_names = features[self.label].names if self.label else None
        if self.captions is None and self.class_names is None:
            raise ValueError(f"{builder.name} has neither captions nor class names: name the captions. {known}")
        self.names_as_captions = [template.format(spoken(name)) for name in self.class_names or ()]
        wanted: dict[str, Any] = {}
        for key in filter(None, (self.image, self.label, self.captions, self.id)):
            folder, _, leaf = key.partition("/") if key not in builder.info.features else (key, "", "")
            wanted[folder] = {**wanted.get(folder, {}), leaf: True} if leaf else True
        self.decoding = tfds.decode.PartialDecoding(wanted, decoders={self.image: tfds.decode.SkipDecoding()})
        self._all = builder.info.features

    def parser(self) -> Parse:
        """Serialised record to raw example, in-graph."""
        features = self.decoding.extract_features(self._all)

        def parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
            flat = _flat(features.deserialize_example(record, decoders=self.decoding.decoders))
            label = tf.cast(flat[self.label], tf.int32) if self.label else None
            if self.captions:
                captions = tf.reshape(flat[self.captions], [-1])
            else:
                # A label below 0 means that there is none.
                captions = tf.gather(self.names_as_captions, label[None][: tf.cast(label >= 0, tf.int32)])
            example = {"image": flat[self.image], "captions": captions}
            if label is not None:
                example["label"] = label
            if self.id:
                name = flat[self.id]
                example["id"] = name if name.dtype == tf.string else tf.strings.as_string(name)
            return example

        return parse


class _DataSource(Source):
    """Serialised records by TFDS's own random access, which is Python: a call a record."""

    def __init__(self, data: Any, parse: Parse, name: str, signature: str):
        self._data = data
        self._parse = parse
        self.size = len(data)
        self.name = name
        self.fingerprint = fingerprint_of(name, signature, self.size)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One raw example, in-graph."""
        record = tf.numpy_function(lambda number: bytes(self._data[int(number)]), [index], tf.string)
        example = self._parse(tf.ensure_shape(record, []))
        example.setdefault("id", tf.strings.as_string(index))
        return example

    def locate(self, index: int) -> tuple[str, int]:
        """The data set and the record's number in its split."""
        return self.name, index


def _flat(features: Any, prefix: str = "") -> dict[str, Any]:
    """Nested features, or values of them, by names joined with "/"; a sequence of named features as those."""
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
