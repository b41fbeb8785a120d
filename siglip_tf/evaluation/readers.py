"""Reads image sets in their published layouts: labeled folders, ObjectNet, COCO, Flickr, and Crossmodal-3600."""

import posixpath
from collections.abc import Sequence
from dataclasses import replace

import tensorflow as tf

from siglip_tf.data.sources.listing import is_hidden, is_image, is_picture, walk
from siglip_tf.data.sources.paths import list_folder
from siglip_tf.evaluation.image_set import ImageSet, from_files, pad_labels
from siglip_tf.evaluation.text_files import (
    captions_of_table,
    captions_of_tokens,
    expected_shape,
    parse_json,
    read_json_lines,
    read_text,
)

_LANGUAGES = (
    "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt quz ro ru sv sw te th tr uk vi zh"
)
_FLICKR_FOLDERS = ("flickr30k-images", "flickr30k_images", "images", "Images", "Flicker8k_Dataset", "")
XM3600_LANGUAGES = tuple(_LANGUAGES.split())


def labelled_folder(path: str, class_names: Sequence[str] | None = None) -> ImageSet:
    """Reads `path/<class>/**/<image>`, with one folder per class. The classes are in order of the folders' names.

    Args:
        path: the folder.
        class_names: names of the classes in that order. The default is the folders' names.

    Raises:
        ValueError: if no folder contains images, or if the number of names is wrong.
    """
    folders = sorted(name for name in _listdir(path) if tf.io.gfile.isdir(posixpath.join(path, name)))
    paths: list[str] = []
    labels: list[int] = []
    kept: list[str] = []
    notes: list[str] = []
    for folder in folders:
        if is_hidden(folder):
            continue
        found, others = _walk_images(posixpath.join(path, folder))
        if others:
            kinds = ", ".join(sorted({posixpath.splitext(name)[1].lower() for name in others}))
            notes.append(f"{folder}: {len(others)} pictures of other kinds ({kinds}) are left out; convert them to PNG")
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
                      labels=pad_labels(labels), class_names=names, notes=tuple(notes))  # fmt: skip


def objectnet(path: str) -> ImageSet:
    """Reads ObjectNet: `images/<folder>/*.png`, with class names from `mappings/folder_to_objectnet_label.json`.

    Each picture has a red border of one pixel, which marks test images. This function removes the border.
    """
    images = posixpath.join(path, "images")
    data = labelled_folder(images if tf.io.gfile.isdir(images) else path)
    mapping = posixpath.join(path, "mappings", "folder_to_objectnet_label.json")
    names = data.class_names or ()
    if tf.io.gfile.exists(mapping):
        table = parse_json(read_text(mapping), mapping)
        with expected_shape(mapping, "an object of folder -> class name"):
            names = tuple(table.get(folder, folder) for folder in names)

    def cut_border(example):
        image = tf.io.decode_image(example["image"], channels=3, expand_animations=False)
        return example | {"image": tf.io.encode_png(image[1:-1, 1:-1])}

    examples = data.examples.map(cut_border, tf.data.AUTOTUNE)
    return replace(data, name="objectnet", examples=examples, class_names=names)


def coco(path: str, split: str = "test") -> ImageSet:
    """Reads COCO captions from Karpathy's `dataset_coco.json` if it exists, else `annotations/captions_<split>.json`.

    Args:
        path: the folder that contains `train2014/`, `val2014/`, `val2017/`, and so on.
        split: "test" or "val" for Karpathy's file, "val2014" or "val2017" for COCO's own files.

    Raises:
        ValueError: if the file or the split does not exist, or no image can be read.
    """
    karpathy = posixpath.join(path, "dataset_coco.json")
    if tf.io.gfile.exists(karpathy) and not split[-1].isdigit():
        return _karpathy(f"coco-{split}", karpathy, split, lambda entry: [posixpath.join(path, entry["filepath"])])
    annotations = posixpath.join(path, "annotations", f"captions_{split}.json")
    if not tf.io.gfile.exists(annotations):
        raise ValueError(f"Expected {karpathy} or {annotations}; for COCO's own files give split=val2017 or the like.")
    content = parse_json(read_text(annotations), annotations)
    captions: dict[int, list[str]] = {}
    with expected_shape(annotations, "COCO's images and annotations"):
        for annotation in content["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"].strip())
        images = [image for image in content["images"] if image["id"] in captions]
        paths = [posixpath.join(path, split, image["file_name"]) for image in images]
    return _with_captions(f"coco-{split}", paths, [str(i["id"]) for i in images], [captions[i["id"]] for i in images])


def flickr(path: str, split: str = "test") -> ImageSet:
    """Reads Flickr30k or 8k from Karpathy's `dataset_flickr30k.json` (or 8k), `results*.token`, or Kaggle's table.

    The token file ("<file>#<n>TAB<caption>") and Kaggle's `captions.txt` or `results.csv` have no splits, so all of
    their images are read.

    Raises:
        ValueError: if none of the files exists, there is no such split, or no image can be read.
    """
    folders = [posixpath.join(path, f) for f in _FLICKR_FOLDERS]
    folders = [folder for folder in folders if tf.io.gfile.isdir(folder)]
    for name in ("dataset_flickr30k.json", "dataset_flickr8k.json"):
        file = posixpath.join(path, name)
        if tf.io.gfile.exists(file):
            return _karpathy(f"{name[8:-5]}-{split}", file, split, lambda _: folders)
    files = sorted(_listdir(path))
    tokens = next((name for name in files if name.endswith((".token", ".token.txt"))), None)
    table = next((name for name in ("captions.txt", "results.csv", "captions.csv") if name in files), None)
    if tokens is not None:
        name, read = tokens, captions_of_tokens
    elif table is not None:
        name, read = table, captions_of_table
    else:
        raise ValueError(f"Expected dataset_flickr30k.json, results*.token, captions.txt or results.csv in {path}.")
    captions, left_out = read(posixpath.join(path, name))
    notes = (f"{left_out} lines of {name} without a caption are left out",) if left_out else ()
    paths = [_find(file, folders) for file in captions]
    return _with_captions("flickr", paths, list(captions), list(captions.values()), notes)


def xm3600(path: str) -> ImageSet:
    """Reads Crossmodal-3600: `captions.jsonl` with captions in up to 36 languages, and `images/<key>.jpg`.

    Source: https://google.github.io/crossmodal-3600/

    Raises:
        ValueError: if a file is missing, or there are no captions in any of the languages.
    """
    file = posixpath.join(path, "captions.jsonl")
    if not tf.io.gfile.exists(file):
        raise ValueError(f"Expected {file} and {path}/images/<key>.jpg, as published.")
    entries = read_json_lines(file)
    languages = {}
    with expected_shape(file, 'lines of {"image/key": ..., "en": {"caption": [...]}, ...}'):
        keys = [str(entry["image/key"]) for entry in entries]
        for language in XM3600_LANGUAGES:
            captions = tuple(tuple(entry.get(language, {}).get("caption", ())) for entry in entries)
            if any(captions):
                languages[language] = captions
    if not languages:
        raise ValueError(f"{file} holds captions in none of the languages {', '.join(XM3600_LANGUAGES)}.")
    paths = [posixpath.join(path, "images", f"{key}.jpg") for key in keys]
    return from_files("xm3600", paths, keys, languages=languages)


def _karpathy(name: str, file: str, split: str, folders) -> ImageSet:
    content = parse_json(read_text(file), file)
    with expected_shape(file, "Karpathy's images with filename, split and sentences"):
        entries = content["images"]
        chosen = [entry for entry in entries if entry["split"] == split]
        if not chosen:
            raise ValueError(f"{file} has no split {split!r}, only {sorted({entry['split'] for entry in entries})}.")
        paths = [_find(entry["filename"], folders(entry)) for entry in chosen]
        captions = [[sentence["raw"].strip() for sentence in entry["sentences"]] for entry in chosen]
        ids = [str(entry["filename"]) for entry in chosen]
    return _with_captions(name, paths, ids, captions)


def _with_captions(
    name: str, paths: list[str], ids: list[str], captions: list[list[str]], notes: tuple[str, ...] = ()
) -> ImageSet:
    return from_files(name, paths, ids, captions=tuple(tuple(c) for c in captions), notes=notes)


def _find(file: str, folders: Sequence[str]) -> str:
    """Returns the path in the first folder that has the file, or in the first folder if none has it."""
    paths = [posixpath.join(folder, file) for folder in folders]
    return next((path for path in paths if tf.io.gfile.exists(path)), paths[0] if paths else file)


def _listdir(path: str) -> list[str]:
    if not tf.io.gfile.isdir(path):
        raise ValueError(f"{path} is not a folder.")
    return list_folder(path)


def _walk_images(path: str) -> tuple[list[str], list[str]]:
    """Returns the sorted pictures below a folder, and the names of those in unsupported formats. Skips hidden files."""
    found = [(where, file) for where, files in walk(path) for file in files if is_picture(file)]
    images = [posixpath.join(where, file) for where, file in found if is_image(file)]
    return sorted(images), [file for _, file in found if not is_image(file)]


def _relative(paths: Sequence[str], root: str) -> list[str]:
    return [posixpath.relpath(path, root) for path in paths]
