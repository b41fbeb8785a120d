"""JSON documents that hold captions, in the layouts that people write, as rows.

    [{"image": "a.png", "caption": "a cat"}]            a list of objects
    {"a.png": "a cat", "b.png": ["a dog", "a pet"]}     captions by image, also as objects ({"caption": ...})
    {"image": ["a.png"], "caption": ["a cat"]}          columns
    {"images": [...], "annotations": [...]}             COCO captions
    {"images": [{"filename", "split", "sentences"}]}    Karpathy's splits
    {"data": [{"image": "a.png", "caption": "a cat"}]}  a list of objects under one key

Source: https://cocodataset.org/#format-data; https://cs.stanford.edu/people/karpathy/deepimagesent/
"""

from collections.abc import Iterator
from typing import Any

from siglip_tf.data.sources.columns import CAPTIONS, IMAGES

Row = dict[str, Any]

LAYOUTS = (
    'a list of objects, {"IMAGE": "CAPTION", ...}, {"COLUMN": [...], ...}, COCO\'s images and annotations, or '
    "Karpathy's images with sentences"
)


def rows_of_json(content: Any, path: str) -> Iterator[Row]:
    """The rows of a JSON document.

    Args:
        content: the document.
        path: its name, for errors.

    Raises:
        ValueError: a layout that is none of the above.
    """
    if isinstance(content, dict):
        yield from _rows_of_object(content, path)
        return
    if not isinstance(content, list):
        raise _unknown(path)
    yield from _objects(content, path)


def _rows_of_object(content: Row, path: str) -> Iterator[Row]:
    images, annotations = content.get("images"), content.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):
        yield from _coco(images, annotations, path)
    elif isinstance(images, list) and any(isinstance(image, dict) and "sentences" in image for image in images):
        yield from map(_karpathy, _objects(images, path))
    elif any(isinstance(content.get(name), str) for name in IMAGES) and {*CAPTIONS} & content.keys():
        yield content
    elif {*IMAGES} & content.keys() and all(isinstance(value, list | dict) for value in content.values()):
        yield from _columns(content, path)
    else:
        lists = [value for value in content.values() if _is_table(value)]
        if len(lists) == 1:
            yield from _objects(lists[0], path)
        elif content and all(_is_caption(value) for value in content.values()):
            for image, value in content.items():
                row = value if isinstance(value, dict) else {"caption": value}
                # An object may name its image itself; its key is a number then.
                yield row if {*IMAGES} & row.keys() else {**row, "image": image}
        else:
            raise _unknown(path)


def _coco(images: list[Any], annotations: list[Any], path: str) -> Iterator[Row]:
    captions: dict[str, list[str]] = {}
    for annotation in _objects(annotations, path):
        if "image_id" not in annotation or "caption" not in annotation:
            raise ValueError(
                f"{path} has the layout of COCO, but an annotation without image_id and caption: these are not "
                "captions. Name COCO's captions file (captions_train2017.json and the like)."
            )
        captions.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
    for image in _objects(images, path):
        name = image.get("file_name")
        yield {"image": name, "captions": captions.get(str(image.get("id")), [])}


def _karpathy(image: Row) -> Row:
    folder = f"{image['filepath']}/" if image.get("filepath") else ""
    sentences = image["sentences"] if isinstance(image.get("sentences"), list) else []
    captions = [sentence.get("raw") for sentence in sentences if isinstance(sentence, dict)]
    name = image.get("filename")
    return {"image": name and f"{folder}{name}", "captions": captions, "split": image.get("split")}


def _columns(content: Row, path: str) -> Iterator[Row]:
    """Columns as lists, or as pandas writes them: objects by the rows' names."""
    columns = {key: list(value.values() if isinstance(value, dict) else value) for key, value in content.items()}
    if len({len(column) for column in columns.values()}) != 1:
        raise ValueError(f"{path} holds columns of different lengths.")
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _objects(values: list[Any], path: str) -> Iterator[Row]:
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"{path}, entry {number}: expected an object. Received: {str(value)[:80]}")
        yield value


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _is_caption(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(text, str) for text in value)
    return isinstance(value, str) or (isinstance(value, dict) and bool({*CAPTIONS} & value.keys()))


def _unknown(path: str) -> ValueError:
    return ValueError(
        f"{path} has no layout of captions that is known here. Expected {LAYOUTS}. "
        "If its folder holds classes all the same, write FOLDER?kind=classes."
    )
