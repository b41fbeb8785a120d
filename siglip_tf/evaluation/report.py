"""One self-contained HTML page of results: figures, tables, confusions, and pictures of what went right and wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from siglip_tf import pages
from siglip_tf.evaluation.results import TaskResult

READING = (
    "The percentage beside an answer is the sigmoid of its logit t·cos + b: how likely this image and this text belong "
    "together, judged alone. It is absolute, does not sum to one over the answers, and is often small for the right "
    "answer too, because in training one text of a whole batch matches an image. Compare answers by rank and by ratio; "
    "the figures above use ranks only."
)

_THUMBNAIL = 112  # pixels of the longer side


def html_report(
    results: Sequence[TaskResult], title: str, about: Mapping[str, str], sigmoid_scores: bool = True
) -> str:
    """The page as a string.

    Args:
        results: of `Evaluation.run`.
        title: the heading, e.g. the checkpoint.
        about: lines of facts below it.
        sigmoid_scores: False for a softmax-trained model, whose logits have no absolute level: then they are shown.
    """
    return pages.render(
        "evaluation.html",
        "siglip_tf.evaluation",
        title=title,
        facts=[f"{name} {value}" for name, value in about.items()],
        reading=READING,
        sigmoid_scores=sigmoid_scores,
        tasks=[_task(result) for result in results],
    )


def _task(result: TaskResult) -> dict[str, Any]:
    """What the template shows of one task."""
    return {
        "name": result.task,
        "kind": result.kind,
        "notes": (f"{result.images:,} images", *result.notes, f"{result.seconds:.1f} s"),
        "figures": [(_words(name), value, result.chance.get(name)) for name, value in result.metrics.items()],
        "tables": _tables(result),
        "queries": [(heading, queries) for heading, queries in result.queries.items() if queries],
        "pictures": _thumbnails(result),
    }


def _tables(result: TaskResult) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """(heading, columns, rows) of each table."""
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
    share = pages.share_text
    if result.kind == "zero_shot":
        worst_first = sorted(result.rows.items(), key=lambda item: item[1]["top1"])
        classes = [(name, share(row["top1"]), f"{row['images']:.0f}") for name, row in worst_first]
        tables.append(("Classes, the worst first", ("class", "top-1", "images"), classes))
    elif result.rows:
        columns = list(next(iter(result.rows.values())))
        rows = [(name, *(share(row[column]) for column in columns)) for name, row in result.rows.items()]
        first = "language" if result.kind == "retrieval" else "draw"
        tables.append(("", (first, *map(_words, columns)), rows))
    if result.confusions:
        pairs = [(right, taken, f"{times}") for right, taken, times in result.confusions]
        tables.append(("Taken for one another", ("class", "taken for", "times"), pairs))
    return tables


def _words(name: str) -> str:
    return name.replace("_", " ")


def _thumbnails(result: TaskResult) -> dict[int, bytes]:
    """Index of each image that the queries show -> a small JPEG of it."""
    shown = [query for queries in result.queries.values() for query in queries]
    pictures = [query.image for query in shown] + [answer.image for query in shown for answer in query.answers]
    indices = sorted({index for index in pictures if index is not None})
    if not indices:
        return {}
    return {i: thumbnail(data) for i, data in zip(indices, result.images_of.read(indices), strict=True)}


def thumbnail(data: bytes, side: int = _THUMBNAIL) -> bytes:
    """A JPEG of at most `side` pixels, aspect kept; small images stay their size."""
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    resized = tf.image.resize(image, size, antialias=True)
    return tf.io.encode_jpeg(tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8), quality=85).numpy()
