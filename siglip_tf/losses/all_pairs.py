"""Every image meets every text of the global batch once, around the ring of replicas and tile by tile (section 3.3).

Around the ring, images stay, and texts move together with their totals. While one chunk of pairs is computed, the next
chunk is sent. After D hops, the totals of the texts are back on their own replica.

A block of b images and b texts is divided into square tiles, with a smaller tile at the end if the tile size does not
divide b. `Total`s accumulate the results of tiles for each image and each text, and nothing else of a tile is kept. So
the memory is O(b d + tile^2), and no tensor of the global batch or of shape b x b ever exists.
"""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from siglip_tf.distribution import Ring
from siglip_tf.primitives.compilation import target_device

# Maps (image tensors (i, ...), text tensors (j, ...), diagonal) to what the tile adds to each total of the images and
# to each total of the texts. `diagonal` says that row k and column k are an image and its own text.
TileFunction = Callable[[list[tf.Tensor], list[tf.Tensor], bool], tuple[list[tf.Tensor], list[tf.Tensor]]]


@dataclasses.dataclass(frozen=True)
class Total:
    """A quantity that is accumulated for each image, or for each text.

    Attributes:
        shape: its shape for one example, for instance (d,) for a gradient or () for a loss.
        start: its value before any pair was visited.
        combine: an associative function of two tensors that combines two partial values.
    """

    shape: tuple[int, ...] = ()
    start: float = 0.0
    combine: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = tf.add

    def initial(self, examples: int, dtype: tf.DType) -> tf.Tensor:
        """Returns the total before any pair was visited, (examples, *shape)."""
        return tf.fill((examples, *self.shape), tf.constant(self.start, dtype))


def automatic_tile_size(examples: int) -> int:
    """Returns the tile size for a replica's examples. Tiles are nearly equal, so that no thin tile remains at the end.

    Larger tiles make larger products and read and write the totals less often. Smaller tiles need less memory. On a TPU
    core, and on a CPU where XLA compiles the loss, tiles of about 1,024 rows stay in fast memory. TensorFlow's own
    matmul needs 2,048: on two cores, 8,192 pairs take a fifth longer with 1,024. A GPU needs more: on an H100, 65,536
    pairs take 174 ms with tiles of 1,024 and 53 ms with 8,192.
    """
    largest = {"GPU": 8192, None: 2048}.get(target_device(), 1024)
    return -(-examples // -(-examples // largest))


def visit_all_pairs(
    ring: Ring,
    images: Sequence[tf.Tensor],
    texts: Sequence[tf.Tensor],
    image_totals: Sequence[Total],
    text_totals: Sequence[Total],
    tile_function: TileFunction,
    tile_size: int,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Visits every pair of the global batch exactly once, in one pass around the ring.

    Args:
        ring: the replicas.
        images: tensors (b, ...) of this replica's images. The dtype of the first is the dtype of the totals.
        texts: tensors (b, ...) of this replica's texts.
        image_totals: the totals of the images.
        text_totals: the totals of the texts.
        tile_function: the computation of one tile, see `TileFunction`.
        tile_size: number of rows and columns of a tile. It need not divide b.

    Returns:
        The totals of this replica's images and of its texts over the global batch, each (b, *total.shape).
    """

    def visit(texts, image_values, own):
        starts = [(total, None) for total in text_totals]
        ends = list(zip(image_totals, image_values, strict=True))
        return _visit_block(images, texts, ends, starts, tile_function, tile_size, own)

    def hop(texts, image_values, travelling):
        next_texts = ring.shift(texts)
        arriving = ring.shift(travelling)
        image_values, gathered = visit(texts, image_values, own=False)
        pairs = zip(text_totals, arriving, gathered, strict=True)
        return next_texts, image_values, [total.combine(before, new) for total, before, new in pairs]

    texts = list(texts)
    next_texts = ring.shift(texts) if ring.size > 1 else texts
    # A replica visits its own texts first. They are the positives, whatever the order of the ring.
    image_values, travelling = visit(texts, [None] * len(image_totals), own=True)
    if ring.size == 1:
        return image_values, travelling
    if ring.loops:
        _, _, image_values, travelling = tf.while_loop(
            lambda k, *_: k < ring.size,
            lambda k, *state: (k + 1, *hop(*state)),
            (tf.constant(1), next_texts, image_values, travelling),
            parallel_iterations=1,
            maximum_iterations=ring.size - 1,
        )
    else:
        for _ in range(1, ring.size):
            next_texts, image_values, travelling = hop(next_texts, image_values, travelling)
    return image_values, ring.shift(travelling)


def _visit_block(
    images: Sequence[tf.Tensor],
    texts: Sequence[tf.Tensor],
    image_totals: Sequence[tuple[Total, tf.Tensor | None]],
    text_totals: Sequence[tuple[Total, tf.Tensor | None]],
    tile_function: TileFunction,
    tile_size: int,
    own: bool,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Visits every pair of b images and b texts exactly once.

    Args:
        images: tensors (b, ...) that the tile function reads for the images.
        texts: tensors (b, ...) that it reads for the texts.
        image_totals: the totals of the images, each with its value so far (b, *shape), or None before any pair.
        text_totals: the same for the texts.
        tile_function: the computation of one tile.
        tile_size: number of rows and columns of a tile.
        own: whether the texts are those of the images, so that positives lie on the diagonal.

    Returns:
        The values of the totals after these pairs.
    """
    examples = images[0].shape[0]
    cut = _Cut(examples, tile_size)
    image_reads = [cut.split(t) for t in images]
    text_reads = [cut.split(t) for t in texts]
    dtype = images[0].dtype
    image_parts = [cut.start(total, dtype) if value is None else cut.split(value) for total, value in image_totals]
    text_parts = [cut.start(total, dtype) if value is None else cut.split(value) for total, value in text_totals]
    image_combine = [total.combine for total, _ in image_totals]
    text_combine = [total.combine for total, _ in text_totals]

    for row, rows in enumerate(cut.counts):
        for column, columns in enumerate(cut.counts):
            on_diagonal = own and row == column

            def visit(i, j, row_parts, column_parts, diagonal, row=row, column=column):
                image_tile = [reads[row].read(i) for reads in image_reads]
                text_tile = [reads[column].read(j) for reads in text_reads]
                to_images, to_texts = tile_function(image_tile, text_tile, diagonal)
                row_parts = [
                    part.write(i, combine(part.read(i), new))
                    for part, combine, new in zip(row_parts, image_combine, to_images, strict=True)
                ]
                column_parts = [
                    part.write(j, combine(part.read(j), new))
                    for part, combine, new in zip(column_parts, text_combine, to_texts, strict=True)
                ]
                return row_parts, column_parts

            row_parts = [parts[row] for parts in image_parts]
            column_parts = [parts[column] for parts in text_parts]
            if on_diagonal:
                row_parts, column_parts = _loop(
                    rows, lambda k: (k, k), lambda *a, v=visit: v(*a, True), row_parts, column_parts
                )
                row_parts, column_parts = _loop(
                    rows * (rows - 1), _off_diagonal(rows), lambda *a, v=visit: v(*a, False), row_parts, column_parts
                )
            else:
                row_parts, column_parts = _loop(
                    rows * columns,
                    lambda k, columns=columns: (k // columns, k % columns),
                    lambda *a, v=visit: v(*a, False),
                    row_parts,
                    column_parts,
                )
            for parts, part in zip(image_parts, row_parts, strict=True):
                parts[row] = part
            for parts, part in zip(text_parts, column_parts, strict=True):
                parts[column] = part
    return [cut.join(parts) for parts in image_parts], [cut.join(parts) for parts in text_parts]


def _off_diagonal(rows):
    """Returns a function from k to the k-th (i, j) with i != j of a rows x rows grid."""

    def pair(k):
        i, j = k // (rows - 1), k % (rows - 1)
        return i, tf.where(j >= i, j + 1, j) if isinstance(k, tf.Tensor) else j + (j >= i)

    return pair


def _loop(trips, pair, visit, row_parts, column_parts):
    """Calls `visit` at pair(0), ..., pair(trips - 1), and carries the parts. A single trip needs no loop."""
    if trips == 0:
        return row_parts, column_parts
    if trips == 1:
        return visit(*pair(0), row_parts, column_parts)

    def body(k, row_values, column_values):
        rows = [part.holding(value) for part, value in zip(row_parts, row_values, strict=True)]
        columns = [part.holding(value) for part, value in zip(column_parts, column_values, strict=True)]
        rows, columns = visit(*pair(k), rows, columns)
        return k + 1, [part.value for part in rows], [part.value for part in columns]

    _, row_values, column_values = tf.while_loop(
        lambda k, *_: k < trips,
        body,
        (tf.constant(0), [part.value for part in row_parts], [part.value for part in column_parts]),
        parallel_iterations=1,
        maximum_iterations=trips,
    )
    return (
        [part.holding(value) for part, value in zip(row_parts, row_values, strict=True)],
        [part.holding(value) for part, value in zip(column_parts, column_values, strict=True)],
    )


class _Cut:
    """Divides b examples into a group of whole tiles and, if the tile size does not divide b, one smaller tile."""

    def __init__(self, examples, tile_size):
        whole, rest = divmod(examples, tile_size)
        sizes = [whole * tile_size, rest]
        self.counts = [count for count, size in zip((whole, 1), sizes, strict=True) if size]
        self._sizes = [size for size in sizes if size]
        self._tile_sizes = [size // count for size, count in zip(self._sizes, self.counts, strict=True)]

    def split(self, tensor):
        groups = tf.split(tensor, self._sizes) if len(self._sizes) > 1 else [tensor]
        return [
            _Single(group) if count == 1 else _Stack.of(group, count, size)
            for group, count, size in zip(groups, self.counts, self._tile_sizes, strict=True)
        ]

    def start(self, total, dtype):
        """Returns the parts of a total before any pair. A stack of zeros uses no memory until its tiles are written."""
        return [
            _Single(total.initial(size, dtype))
            if count == 1
            else _Stack.of_zeros(count, (size, *total.shape), dtype)
            if total.start == 0
            else _Stack.of(total.initial(count * size, dtype), count, size)
            for count, size in zip(self.counts, self._tile_sizes, strict=True)
        ]

    def join(self, parts):
        values = [part.joined() for part in parts]
        return values[0] if len(values) == 1 else tf.concat(values, 0)


@dataclasses.dataclass(frozen=True)
class _Single:
    """A group of one tile."""

    value: tf.Tensor

    def holding(self, value):
        return _Single(value)

    def read(self, _):
        return self.value

    def write(self, _, tile):
        return _Single(tile)

    def joined(self):
        return self.value


@dataclasses.dataclass(frozen=True)
class _Stack:
    """A group of equal tiles in a `TensorArray`, which can replace one tile without copying the others."""

    value: tf.TensorArray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor, count, size):
        shape = (size, *tensor.shape[1:])
        zeros = cls.of_zeros(count, shape, tensor.dtype)
        return zeros.holding(zeros.value.unstack(tf.reshape(tensor, (count, *shape))))

    @classmethod
    def of_zeros(cls, count, shape, dtype):
        # An element that was never written reads as zeros.
        array = tf.TensorArray(dtype, count, element_shape=shape, clear_after_read=False)
        return cls(array, (count * shape[0], *shape[1:]))

    def holding(self, value):
        return _Stack(value, self.shape)

    def read(self, k):
        return self.value.read(k)

    def write(self, k, tile):
        return _Stack(self.value.write(k, tile), self.shape)

    def joined(self):
        return tf.reshape(self.value.stack(), self.shape)
