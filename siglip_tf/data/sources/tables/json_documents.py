"""Reads JSON documents with captions, in the layouts that people write, as rows.

    [{"image": "a.png", "caption": "a cat"}]            a list of objects
    {"a.png": "a cat", "b.png": ["a dog", "a pet"]}     captions by image, also as objects ({"caption": ...})
    {"image": ["a.png"], "caption": ["a cat"]}          columns
    {"images": [...], "annotations": [...]}             COCO captions
    {"images": [{"filename", "split", "sentences"}]}    Karpathy's splits
    {"data": [{"image": "a.png", "caption": "a cat"}]}  a list of objects under one key

Source: https://cocodataset.org/#format-data; https://cs.stanford.edu/people/karpathy/deepimagesent/
"""

from collections.abc import Iterable, Iterator
from typing import Any

from siglip_tf.data.sources.tables.columns import CAPTIONS, IMAGES
from siglip_tf.data.sources.tables.rows import BrokenRow, Row

Object = dict[str, Any]

LAYOUTS = (
    'a list of objects, {"IMAGE": "CAPTION", ...}, {"COLUMN": [...], ...}, COCO\'s images and annotations, or '
    "Karpathy's images with sentences"
)


def rows_of_json(content: Any, path: str) -> Iterator[Row | BrokenRow]:
    """Yields the rows of a JSON document. An entry that is not an object is broken.

    Args:
        content: the document.
        path: its path, for error messages.

    Raises:
        ValueError: the document has none of the layouts above.
    """
    if not isinstance(content, dict | list):
        raise _unknown(path)
    rows = _rows_of_object(content, path) if isinstance(content, dict) else content
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield Row(row, path, number, "entry")
        else:
            yield BrokenRow(path, number, f"expected an object. Received: {str(row)[:80]}", "entry")


def _rows_of_object(content: Object, path: str) -> Iterable[Any]:
    images, annotations = content.get("images"), content.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):
        yield from _coco(images, annotations, path)
    elif isinstance(images, list) and any(isinstance(image, dict) and "sentences" in image for image in images):
        yield from (_karpathy(image) if isinstance(image, dict) else image for image in images)
    elif any(isinstance(content.get(name), str) for name in IMAGES) and {*CAPTIONS} & content.keys():
        yield content
    elif {*IMAGES} & content.keys() and all(isinstance(value, list | dict) for value in content.values()):
        yield from _columns(content, path)
    else:
        lists = [value for value in content.values() if _is_table(value)]
        if len(lists) == 1:
            yield from lists[0]
        elif content and all(_is_caption(value) for value in content.values()):
            for image, value in content.items():
                row = value if isinstance(value, dict) else {"caption": value}
                # An object may name its image itself. Its key is then a number.
                yield row if {*IMAGES} & row.keys() else {**row, "image": image}
        else:
            raise _unknown(path)


def _coco(images: list[Any], annotations: list[Any], path: str) -> Iterator[Any]:
    captions: dict[str, list[str]] = {}
    for annotation in annotations:
        # A broken annotation adds no caption. An image without any caption counts as a broken record later.
        if isinstance(annotation, dict) and {"image_id", "caption"} <= annotation.keys():
            captions.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
    if annotations and not captions:
        raise ValueError(
            f"{path} has the layout of COCO, but its annotations have no image_id and caption: these are not "
            "captions. Name COCO's captions file (captions_train2017.json and the like)."
        )
    for image in images:
        if isinstance(image, dict):
            yield {"image": image.get("file_name"), "captions": captions.get(str(image.get("id")), [])}
        else:
            yield image


def _karpathy(image: Object) -> Object:
    folder = f"{image['filepath']}/" if image.get("filepath") else ""
    sentences = image["sentences"] if isinstance(image.get("sentences"), list) else []
    captions = [sentence.get("raw") for sentence in sentences if isinstance(sentence, dict)]
    name = image.get("filename")
    return {"image": name and f"{folder}{name}", "captions": captions, "split": image.get("split")}


def _columns(content: Object, path: str) -> Iterator[Object]:
    """Yields the rows of columns that are lists or, as pandas writes them, objects with a key per row."""
    columns = {key: list(value.values() if isinstance(value, dict) else value) for key, value in content.items()}
    if len({len(column) for column in columns.values()}) != 1:
        raise ValueError(f"{path} holds columns of different lengths.")
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and sum(isinstance(row, dict) for row in value) * 2 > len(value)


def _is_caption(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(text, str) for text in value)
    return isinstance(value, str) or (isinstance(value, dict) and bool({*CAPTIONS} & value.keys()))


def _unknown(path: str) -> ValueError:
    return ValueError(
        f"{path} has no layout of captions that is known here. Expected {LAYOUTS}. "
        "If its folder holds classes all the same, write FOLDER?kind=classes."
    )
