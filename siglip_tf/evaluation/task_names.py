"""Parses tasks from the text that command lines and configurations contain."""

import numpy as np

from siglip_tf.evaluation import readers
from siglip_tf.evaluation.image_set import ImageSet
from siglip_tf.evaluation.source_sets import source_set
from siglip_tf.evaluation.tasks import FewShotTask, RetrievalTask, Task, ZeroShotTask
from siglip_tf.evaluation.templates import read_templates
from siglip_tf.evaluation.text_files import read_names
from siglip_tf.evaluation.tfds_sets import tfds_set
from siglip_tf.evaluation.zero_shot import present_classes

GRAMMAR = """\
KIND:READER=WHERE[,option=value...]

  zero_shot:folder=DIR           one folder of pictures per class
  zero_shot:objectnet=DIR        ObjectNet as unzipped (its red border is cut off)
  zero_shot:source=SOURCE        your own labeled records: whatever training reads as SOURCE
  zero_shot:tfds=NAME            a prepared TFDS data set: imagenet2012, imagenet2012_real, imagenet_v2, imagenet_a,
                                 imagenet_r, oxford_iiit_pet, cifar100, ...
  retrieval:coco=DIR             COCO captions: Karpathy's split file, or COCO's own with split=val2017
  retrieval:flickr=DIR           Flickr30k or 8k
  retrieval:xm3600=DIR           Crossmodal-3600, a row for each of 36 languages
  retrieval:source=SOURCE        your own captioned records: a folder with a table, tar, TFRecord or Parquet shards
  retrieval:tfds=NAME            coco_captions, ...
  few_shot:tfds=NAME             10-shot linear probe: drawn from train=SPLIT (default "train")
  few_shot:folder=DIR            DIR/train and DIR/test, one folder per class in each

options
  split=S             of tfds, source, coco and flickr (ReaL's and ImageNet's default is validation)
  data_dir=DIR        where TFDS data sets lie
  class_names=FILE    one name per line, in the order of the labels, or a JSON list
  templates=T         name, photo, photos, drawings, or a file with one template a line
  subset=present      only classes that occur may be predicted (ImageNet-A, -R)
  subset=FILE         only these class names may be predicted; images of other classes are left out
  shots=10  seeds=3   of few_shot
  limit=N             N images spread evenly over the set"""

_OPTIONS = {
    "zero_shot": {"split", "data_dir", "class_names", "templates", "subset", "limit"},
    "retrieval": {"split", "data_dir", "limit"},
    "few_shot": {"split", "train", "data_dir", "class_names", "shots", "seeds", "limit"},
}
_READERS = {
    "zero_shot": ("folder", "objectnet", "source", "tfds"),
    "retrieval": ("coco", "flickr", "source", "xm3600", "tfds"),
    "few_shot": ("folder", "tfds"),
}


def parse_task(text: str) -> Task:
    """Returns the task that `text` names (see `GRAMMAR`). Its files are looked up now; its images are read later.

    Raises:
        ValueError: if the text does not follow the grammar, or files are missing.
    """
    head, *pairs = text.split(",")
    kind, _, reader = head.partition(":")
    reader, _, where = reader.partition("=")
    if kind not in _READERS:
        raise ValueError(f"Task {text!r}: expected a kind among {', '.join(_READERS)}. Received: {kind!r}.")
    if reader not in _READERS[kind] or not where:
        expected = ", ".join(f"{kind}:{r}=..." for r in _READERS[kind])
        raise ValueError(f"Task {text!r}: expected {expected}.")
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in _OPTIONS[kind]:
            raise ValueError(f"Task {text!r}: {pair!r} is none of the options {', '.join(sorted(_OPTIONS[kind]))}.")
        options[name] = value
    limit = _number(options, "limit", None)
    if kind == "zero_shot":
        templates = read_templates(options.get("templates", "photo"))
        images, classes = _images(reader, where, options), None
        if "subset" in options:  # chosen before the limit, so that it considers all images
            images, classes = _class_subset(images, options["subset"])
        return ZeroShotTask(images.limit(limit), templates, classes)
    if kind == "retrieval":
        return RetrievalTask(_images(reader, where, options).limit(limit))
    if reader == "folder":
        train, test = (_images(reader, f"{where}/{part}", options) for part in ("train", "test"))
    else:
        train = _images(reader, where, options | {"split": options.get("train", "train")})
        test = _images(reader, where, options)
    return FewShotTask(train, test.limit(limit), _number(options, "shots", 10), _number(options, "seeds", 3))


def _number(options: dict[str, str], name: str, default: int | None) -> int | None:
    if name not in options:
        return default
    if not options[name].isdigit() or int(options[name]) < 1:
        raise ValueError(f"Expected {name} to be a positive number. Received: {options[name]!r}.")
    return int(options[name])


def _class_subset(images: ImageSet, which: str) -> tuple[ImageSet, np.ndarray]:
    """Returns the images of some classes, and the ids of those classes."""
    if images.labels is None:
        raise ValueError(f"{images.name} has no labels: there are no classes to choose among.")
    if which == "present":
        return images, present_classes(images.labels)
    names = read_names(which)
    unknown = sorted(set(names) - set(images.class_names))
    if unknown:
        raise ValueError(f"{which} names classes that {images.name} does not have, {unknown[0]!r} for one.")
    classes = np.array(sorted(images.class_names.index(name) for name in set(names)))
    kept = np.isin(images.labels.reshape(len(images), -1), classes).any(axis=1)
    if not kept.any():
        raise ValueError(f"{images.name} has no images of the classes in {which}.")
    return images.subset(np.flatnonzero(kept)), classes


def _images(reader: str, where: str, options: dict[str, str]) -> ImageSet:
    names = read_names(options["class_names"]) if "class_names" in options else None
    split = {"split": options["split"]} if "split" in options else {}
    if reader == "tfds":
        return tfds_set(where, data_dir=options.get("data_dir"), class_names=names, **split)
    if reader == "source":
        return source_set(where, class_names=names, **split)
    if reader == "folder":
        return readers.labelled_folder(where, names)
    if reader in ("coco", "flickr"):
        return getattr(readers, reader)(where, **split)
    return getattr(readers, reader)(where)
