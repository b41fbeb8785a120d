"""Once round the ring: each replica's images meet every replica's texts (section 3.3, Figure 1).

Texts and what is gathered for them travel; images stay. While a chunk is at hand and its pairs are computed, the next
chunk is already on its way, and so is what the previous replica gathered for this one. After D hops the totals of the
texts are home. No tensor of the global batch exists anywhere.
"""

from collections.abc import Sequence

import tensorflow as tf

from siglip_tf.distribution import Ring
from siglip_tf.losses.tiling import TileFunction, Total, visit_block


def ring_pass(
    ring: Ring,
    images: Sequence[tf.Tensor],
    texts: Sequence[tf.Tensor],
    image_totals: Sequence[Total],
    text_totals: Sequence[Total],
    tile_function: TileFunction,
    tile_size: int,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Visits every pair of the global batch exactly once.

    Args:
        ring: the replicas.
        images: tensors (b, ...) of this replica's images.
        texts: tensors (b, ...) of this replica's texts.
        image_totals: what the tile function gathers for each image.
        text_totals: what it gathers for each text.
        tile_function: the maths of one tile, see `tiling.TileFunction`.
        tile_size: rows and columns of a tile.

    Returns:
        The totals of this replica's images and of its texts over the global batch, each (b, *total.shape).
    """

    def visit(texts, image_values, own):
        return visit_block(
            images,
            texts,
            list(zip(image_totals, image_values, strict=True)),
            [(total, None) for total in text_totals],
            tile_function,
            tile_size,
            own,
        )

    def hop(texts, image_values, travelling):
        next_texts = ring.shift(texts)
        arriving = ring.shift(travelling)
        image_values, gathered = visit(texts, image_values, own=False)
        gathered = [
            total.combine(before, new) for total, before, new in zip(text_totals, arriving, gathered, strict=True)
        ]
        return next_texts, image_values, gathered

    texts = list(texts)
    next_texts = ring.shift(texts) if ring.size > 1 else texts
    image_values, travelling = visit(texts, [None] * len(image_totals), own=True)
    if ring.size > 1:
        if ring.loops:
            _, next_texts, image_values, travelling = tf.while_loop(
                lambda k, *_: k < ring.size,
                lambda k, *state: (k + 1, *hop(*state)),
                (tf.constant(1), next_texts, image_values, travelling),
                parallel_iterations=1,
                maximum_iterations=ring.size - 1,
            )
        else:
            for _ in range(1, ring.size):
                next_texts, image_values, travelling = hop(next_texts, image_values, travelling)
        travelling = ring.shift(travelling)
    return image_values, travelling
