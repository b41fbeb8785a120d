"""What a source gives in-graph, by records or by runs."""

import numpy as np
import tensorflow as tf

from siglip_tf.data.reading import in_order


def in_graph(source, start: int = 0, stop: int | None = None) -> list[dict]:
    """Raw examples in order, as numpy values."""
    return [example for _, example in in_order(source, start, stop or source.size).as_numpy_iterator()]


def run(source, start: int, count: int) -> list[dict]:
    """A part of a run."""
    dataset = tf.data.Dataset.from_tensors(np.array([start, count])).flat_map(lambda p: source.read_run(p[0], p[1]))
    return list(dataset.as_numpy_iterator())


def same(left: dict, right: dict) -> bool:
    """Whether two examples agree in all fields that both hold, captions among them."""
    fields = left.keys() & right.keys()
    assert {"image", "captions", "id"} <= fields
    return all(np.array_equal(left[key], right[key]) for key in fields)
