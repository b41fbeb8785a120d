"""Image sets in the layouts they are published in: labelled folders, ObjectNet, COCO, Flickr, Crossmodal-3600."""

import csv
import json
import posixpath
from collections.abc import Iterable, Sequence

import tensorflow as tf

from siglip_tf.evaluation.image_set import ImageSet, from_files, pad_labels

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")

_LANGUAGES = (
    "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt quz ro ru sv sw te th tr uk vi zh"
)
XM3600_LANGUAGES = tuple(_LANGUAGES.split())


def read_names(path: str) -> list[str]:
    """Class names, labels or templates from a file: a JSON list, or one a line (blank lines and `#` lines left out).

    Raises:
        ValueError: no such file, nothing in it, or not UTF-8 text.
    """
    try:
        text = _read_text(path)
    except tf.errors.NotFoundError as error:
        raise ValueError(f"There is no file {path!r}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}.") from error
    if text.lstrip().startswith("["):
        names = json.loads(text)
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: expected a JSON list of strings.")
    else:
        lines = (line.strip() for line in text.splitlines())
        names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise ValueError(f"{path} holds no names.")
    return names


def labelled_folder(path: str, class_names: Sequence[str] | None = None) -> ImageSet:
    """`path/<class>/**/<image>`: one folder a class, in order of its name.

    Args:
        path: the folder.
        class_names: names in that order; by default the folders' own names.

    Raises:
        ValueError: no folders with images, or another number of names.
    """
    folders = sorted(name for name in _listdir(path) if tf.io.gfile.isdir(posixpath.join(path, name)))
    paths, labels, kept = [], [], []
    for folder in folders:
        found = sorted(_walk_images(posixpath.join(path, folder)))
        if found:
            labels += [len(kept)] * len(found)
            paths += found
            kept.append(folder)
    if not kept:
        raise ValueError(f"{path} holds no folders with images: expected {path}/<class name>/<image file>.")
    names = tuple(kept if class_names is None else class_names)
    if len(names) != len(kept):
        raise ValueError(f"{path} has {len(kept)} classes ({kept[0]}, ...), {len(names)} names were given.")
    return from_files(posixpath.basename(path.rstrip("/")), paths, _relative(paths, path),
                      labels=pad_labels(labels), class_names=names)  # fmt: skip


def objectnet(path: str) -> ImageSet:
    """ObjectNet as it is unzipped: `images/<folder>/*.png`, names from `mappings/folder_to_objectnet_label.json`.

    Each picture carries a red border of one pixel against misuse in training, which is cut off.
    """
    images = posixpath.join(path, "images")
    data = labelled_folder(images if tf.io.gfile.isdir(images) else path)
    mapping = posixpath.join(path, "mappings", "folder_to_objectnet_label.json")
    names = data.class_names
    if tf.io.gfile.exists(mapping):
        table = json.loads(_read_text(mapping))
        names = tuple(table.get(folder, folder) for folder in data.class_names)

    def cut_border(example):
        image = tf.io.decode_image(example["image"], channels=3, expand_animations=False)
        return example | {"image": tf.io.encode_png(image[1:-1, 1:-1])}

    return ImageSet("objectnet", data.examples.map(cut_border, tf.data.AUTOTUNE), data.ids, data.labels, names)


def coco(path: str, split: str = "test") -> ImageSet:
    """COCO captions: Karpathy's `dataset_coco.json` if it is there, else `annotations/captions_<split>.json`.

    Args:
        path: folder that holds `train2014/`, `val2014/`, `val2017/` and the like.
        split: "test" or "val" of Karpathy's; "val2014", "val2017" of COCO's own files.

    Raises:
        ValueError: no such file or split, or images that are missing.
    """
    karpathy = posixpath.join(path, "dataset_coco.json")
    if tf.io.gfile.exists(karpathy) and not split[-1].isdigit():
        return _karpathy(f"coco-{split}", karpathy, split, lambda entry: [posixpath.join(path, entry["filepath"])])
    annotations = posixpath.join(path, "annotations", f"captions_{split}.json")
    if not tf.io.gfile.exists(annotations):
        raise ValueError(f"Expected {karpathy} or {annotations}; for COCO's own files give split=val2017 or the like.")
    content = json.loads(_read_text(annotations))
    captions: dict[int, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"].strip())
    images = [image for image in content["images"] if image["id"] in captions]
    paths = [posixpath.join(path, split, image["file_name"]) for image in images]
    return _with_captions(f"coco-{split}", paths, [str(i["id"]) for i in images], [captions[i["id"]] for i in images])


def flickr(path: str, split: str = "test") -> ImageSet:
    """Flickr30k or 8k: Karpathy's `dataset_flickr30k.json` (or 8k), else `results*.token`, else `captions.txt`.

    The token file ("<file>#<n>TAB<caption>") and Kaggle's CSV ("image,caption") know no splits: all of it is read.

    Raises:
        ValueError: none of the files, no such split, or images that are missing.
    """
    folders = [posixpath.join(path, f) for f in ("flickr30k-images", "flickr30k_images", "images", "Images", "")]
    folders = [folder for folder in folders if tf.io.gfile.isdir(folder)]
    for name in ("dataset_flickr30k.json", "dataset_flickr8k.json"):
        file = posixpath.join(path, name)
        if tf.io.gfile.exists(file):
            return _karpathy(f"{name[8:-5]}-{split}", file, split, lambda _: folders)
    tokens = sorted(name for name in _listdir(path) if name.endswith((".token", ".token.txt")))
    if tokens:
        lines = _read_text(posixpath.join(path, tokens[0])).splitlines()
        rows = [line.split("\t", 1) for line in lines if "\t" in line]
        pairs: Iterable = ((file.rsplit("#", 1)[0], caption) for file, caption in rows)
    elif tf.io.gfile.exists(posixpath.join(path, "captions.txt")):
        pairs = list(csv.reader(_read_text(posixpath.join(path, "captions.txt")).splitlines()))[1:]
    else:
        raise ValueError(f"Expected dataset_flickr30k.json, results*.token or captions.txt in {path}.")
    captions: dict[str, list[str]] = {}
    for file, caption in pairs:
        captions.setdefault(file, []).append(caption.strip())
    return _with_captions(
        "flickr", [_find(file, folders) for file in captions], list(captions), list(captions.values())
    )


def xm3600(path: str) -> ImageSet:
    """Crossmodal-3600: `captions.jsonl` and `images/<key>.jpg`, captions in up to 36 languages.

    Source: https://google.github.io/crossmodal-3600/

    Raises:
        ValueError: a missing file, or no captions in any of the languages.
    """
    file = posixpath.join(path, "captions.jsonl")
    if not tf.io.gfile.exists(file):
        raise ValueError(f"Expected {file} and {path}/images/<key>.jpg, as published.")
    entries = [json.loads(line) for line in _read_text(file).splitlines() if line.strip()]
    languages = {}
    for language in XM3600_LANGUAGES:
        captions = tuple(tuple(entry.get(language, {}).get("caption", ())) for entry in entries)
        if any(captions):
            languages[language] = captions
    if not languages:
        raise ValueError(f"{file} holds captions in none of the languages {', '.join(XM3600_LANGUAGES)}.")
    keys = [entry["image/key"] for entry in entries]
    paths = [_existing(posixpath.join(path, "images", f"{key}.jpg")) for key in keys]
    return from_files("xm3600", paths, keys, languages=languages)


def _karpathy(name: str, file: str, split: str, folders) -> ImageSet:
    entries = json.loads(_read_text(file))["images"]
    chosen = [entry for entry in entries if entry["split"] == split]
    if not chosen:
        raise ValueError(f"{file} has no split {split!r}, only {sorted({entry['split'] for entry in entries})}.")
    paths = [_find(entry["filename"], folders(entry)) for entry in chosen]
    captions = [[sentence["raw"].strip() for sentence in entry["sentences"]] for entry in chosen]
    return _with_captions(name, paths, [entry["filename"] for entry in chosen], captions)


def _with_captions(name: str, paths: list[str], ids: list[str], captions: list[list[str]]) -> ImageSet:
    for path in paths:
        _existing(path)
    return from_files(name, paths, ids, captions=tuple(tuple(c) for c in captions))


def _find(file: str, folders: Sequence[str]) -> str:
    for folder in folders:
        path = posixpath.join(folder, file)
        if tf.io.gfile.exists(path):
            return path
    raise ValueError(f"{file} is in none of {list(folders)}.")


def _existing(path: str) -> str:
    if not tf.io.gfile.exists(path):
        raise ValueError(f"{path} is named by the captions' file and is not there.")
    return path


def _read_text(path: str) -> str:
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read().decode("utf-8-sig")


def _listdir(path: str) -> list[str]:
    if not tf.io.gfile.isdir(path):
        raise ValueError(f"{path} is not a folder.")
    return [name.rstrip("/") for name in tf.io.gfile.listdir(path)]


def _walk_images(path: str) -> Iterable[str]:
    for folder, _, files in tf.io.gfile.walk(path):
        yield from (posixpath.join(folder, file) for file in files if file.lower().endswith(IMAGE_SUFFIXES))


def _relative(paths: Sequence[str], root: str) -> list[str]:
    return [posixpath.relpath(path, root) for path in paths]
