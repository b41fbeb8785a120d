"""What a source gives in-graph, by records or by runs."""

import numpy as np
import tensorflow as tf

from siglip_tf.data.reading import in_order
from tests.data.memory_source import encode


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


def fill_shards(folder, extension: str, write, sample) -> None:
    """Three shards of img2dataset's: five samples, one, and four.

    Args:
        folder: where to.
        extension: of the shards' names.
        write: writes a path and a list of samples.
        sample: the sample of a number.
    """
    for shard, count in enumerate((5, 1, 4)):
        write(folder / f"{shard:05d}.{extension}", [sample(10 * shard + i) for i in range(count)])


def assert_reads_shards(source, folder, extension: str, random_access: bool) -> None:
    """Every sample of `fill_shards` is read, in the graph and outside, and its place is known."""
    assert source.size == 10 and (source.runs is None) == random_access
    numbers = [0, 1, 2, 3, 4, 10, 20, 21, 22, 23]
    read = in_graph(source)
    assert [example["id"] for example in read] == [f"{n:09d}".encode() for n in numbers]
    assert [example["image"] for example in read] == [encode(n) for n in numbers]
    assert [example["captions"].tolist() for example in read] == [[f"picture {n}".encode()] for n in numbers]
    assert all(same(example, source.fetch(index)) for index, example in enumerate(read))
    assert source.locate(6) == (str(folder / f"00002.{extension}"), 0)
