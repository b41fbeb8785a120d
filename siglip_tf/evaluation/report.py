"""One self-contained HTML page of results: metrics, tables, confusions, and pictures with right and wrong answers."""

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
    """Returns the page as a string.

    Args:
        results: the results of `Evaluation.run`.
        title: the heading, for example the name of the checkpoint.
        about: facts to show below the heading, by name.
        sigmoid_scores: whether to show probabilities. Use False for a model that was trained with the softmax loss,
            whose logits have no absolute meaning. Then the page shows logits.
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
    """Returns the values that the template shows for one task."""
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
    """Returns the heading, columns, and rows of each table."""
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
    """Returns a small JPEG of each image that the queries show, by its index."""
    shown = [query for queries in result.queries.values() for query in queries]
    pictures = [query.image for query in shown] + [answer.image for query in shown for answer in query.answers]
    indices = sorted({index for index in pictures if index is not None})
    if not indices:
        return {}
    return {i: thumbnail(data) for i, data in zip(indices, result.images_of.read(indices), strict=True)}


def thumbnail(data: bytes, side: int = _THUMBNAIL) -> bytes:
    """Returns a JPEG of at most `side` pixels with the same aspect ratio. Small images are not enlarged."""
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    resized = tf.image.resize(image, size, antialias=True)
    return tf.io.encode_jpeg(tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8), quality=85).numpy()
