"""Mixes several sources in proportions that hold exactly in every block of a thousand pairs."""

from collections.abc import Sequence

import numpy as np

from siglip_tf.data.order.permutation import mix
from siglip_tf.data.sources.base import Source, fingerprint_of

# The proportions hold exactly in each block of this many slots. Weights are rounded to thousandths.
BLOCK = 1000

_COMPONENTS = 3


class Mixture:
    """A weighted mixture of sources. Each source keeps its own order and its own epochs.

    Args:
        sources: at least one source.
        weights: the relative number of pairs from each source. None weights sources by their numbers of records.
        name: what reports call the mixture; the sources' names by default.

    Raises:
        ValueError: there are no sources, there is not exactly one positive weight per source, or a weight is below
            1 in 1000.
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
        """Returns the mixture itself, or a source as a mixture of one."""
        return source if isinstance(source, Mixture) else cls([source], name=source.name)

    def components(self, seed: int, stream: int, block: int) -> np.ndarray:
        """Returns int64 (BLOCK,): the number of the source that each slot of a stream's block is drawn from."""
        pattern = np.repeat(np.arange(len(self.counts)), self.counts)
        return pattern[np.argsort(mix(seed, _COMPONENTS, stream, block, np.arange(BLOCK)), kind="stable")]

    def component_slots(self, seed: int, stream: int, slot: int) -> np.ndarray:
        """Returns int64 (sources,): how many slots each source has filled before slot `slot` of a stream."""
        block, inside = divmod(slot, BLOCK)
        begun = self.components(seed, stream, block)[:inside]
        return block * self.counts + np.bincount(begun, minlength=len(self.counts))

    def component_at(self, seed: int, stream: int, slot: int) -> tuple[int, int]:
        """Returns the number of the source that fills slot `slot` of a stream, and how many slots it filled before."""
        component = int(self.components(seed, stream, slot // BLOCK)[slot % BLOCK])
        return component, int(self.component_slots(seed, stream, slot)[component])


def _rounded(shares: np.ndarray) -> np.ndarray:
    """Returns int64 counts that sum to BLOCK, rounded by the largest-remainder method."""
    counts = np.floor(shares * BLOCK).astype(np.int64)
    rest = np.argsort(counts - shares * BLOCK, kind="stable")[: BLOCK - counts.sum()]
    counts[rest] += 1
    return counts
