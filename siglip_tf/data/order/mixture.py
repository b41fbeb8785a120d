"""Several sources in one training stream, in proportions that hold exactly in every block of a thousand pairs."""

from collections.abc import Sequence

import numpy as np

from siglip_tf.data.order.permutation import mix
from siglip_tf.data.sources.base import Source, fingerprint_of

# Slots of a stream in which the proportions hold exactly; weights are rounded to thousandths.
BLOCK = 1000

_COMPONENTS = 3


class Mixture:
    """A weighted mixture of sources; each source keeps its own order and its own epochs.

    Args:
        sources: at least one source.
        weights: how many pairs come from each, in any unit; None weighs by the number of records.
        name: what reports call the mixture; the sources' names by default.

    Raises:
        ValueError: no sources, weights of another number or below zero, or a weight that rounds to nothing.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None, name: str | None = None):
        if not sources:
            raise ValueError("A mixture needs at least one source.")
        shares = np.asarray([source.size for source in sources] if weights is None else weights, np.float64)
        if shares.shape != (len(sources),) or not np.isfinite(shares).all() or (shares <= 0).any():
            raise ValueError(f"Expected one weight above 0 for each of {len(sources)} sources. Received: {weights}")
        self.sources = tuple(sources)
        self.name = name or " + ".join(source.name for source in sources)
        self.counts = _rounded(shares / shares.sum())
        if (self.counts == 0).any():
            rare = [s.name for s, count in zip(sources, self.counts, strict=True) if count == 0]
            raise ValueError(
                f"The weights of {', '.join(rare)} are below 1 in {BLOCK}: raise them, or leave the sources out."
            )
        self.fingerprint = fingerprint_of([source.fingerprint for source in sources], self.counts.tolist())

    @classmethod
    def of(cls, source: "Source | Mixture") -> "Mixture":
        """The mixture itself, or a source as a mixture of one."""
        return source if isinstance(source, Mixture) else cls([source], name=source.name)

    def components(self, seed: int, stream: int, block: int) -> np.ndarray:
        """int64 (BLOCK,): which source each slot of a block of a stream is drawn from."""
        pattern = np.repeat(np.arange(len(self.counts)), self.counts)
        return pattern[np.argsort(mix(seed, _COMPONENTS, stream, block, np.arange(BLOCK)), kind="stable")]

    def component_slots(self, seed: int, stream: int, slot: int) -> np.ndarray:
        """int64 (sources,): how many slots each source has filled before slot `slot` of a stream."""
        block, inside = divmod(slot, BLOCK)
        begun = self.components(seed, stream, block)[:inside]
        return block * self.counts + np.bincount(begun, minlength=len(self.counts))

    def component_at(self, seed: int, stream: int, slot: int) -> tuple[int, int]:
        """The source that fills slot `slot` of a stream, and the number of that slot among the source's own."""
        component = int(self.components(seed, stream, slot // BLOCK)[slot % BLOCK])
        return component, int(self.component_slots(seed, stream, slot)[component])


def _rounded(shares: np.ndarray) -> np.ndarray:
    """int64 counts that sum to BLOCK, by largest remainder."""
    counts = np.floor(shares * BLOCK).astype(np.int64)
    rest = np.argsort(counts - shares * BLOCK, kind="stable")[: BLOCK - counts.sum()]
    counts[rest] += 1
    return counts
