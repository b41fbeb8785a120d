"""Simulates the faults of captions from the web: wrong, generic, and empty captions, and repeated pictures."""

from __future__ import annotations

import dataclasses
import random
from typing import Final

OWN, MISMATCHED, GENERIC, EMPTY = "own", "mismatched", "generic", "empty"
GENERIC_CAPTIONS: Final = (
    "image",
    "photo",
    "picture",
    "untitled",
    "thumbnail",
    "click to enlarge",
    "stock photo",
    "img_0001.jpg",
    "free download",
    "no description",
)
_REACH: Final = 1_000  # a repeated picture is at most this many examples old


@dataclasses.dataclass(frozen=True)
class WebNoise:
    """The fractions of examples with each fault. A caption has at most one fault.

    Attributes:
        mismatched: fraction of captions that belong to another picture.
        generic: fraction of captions without content, such as "untitled".
        empty: fraction of empty captions.
        repeated: fraction of examples that repeat an earlier picture with another caption.

    Raises:
        ValueError: if a fraction is outside [0, 1], or the fractions of captions with faults sum to more than 1.
    """

    mismatched: float = 0.0
    generic: float = 0.0
    empty: float = 0.0
    repeated: float = 0.0

    def __post_init__(self):
        for name, share in dataclasses.asdict(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"Expected {name} to be a share in [0, 1]. Received: {name}={share}.")
        if self.mismatched + self.generic + self.empty > 1:
            raise ValueError(
                "Expected mismatched + generic + empty to be at most 1: an example has one caption. Received: "
                f"{self.mismatched} + {self.generic} + {self.empty}."
            )

    def fault(self, generator: random.Random) -> str:
        """Draws the fault of a caption, or `OWN` for none."""
        drawn = generator.random()
        for name, share in ((MISMATCHED, self.mismatched), (GENERIC, self.generic), (EMPTY, self.empty)):
            if drawn < share:
                return name
            drawn -= share
        return OWN

    def picture(self, index: int, generator: random.Random) -> int:
        """Draws the example whose picture example `index` shows: its own, or one of the thousand before it."""
        repeats = generator.random() < self.repeated
        back = 1 + generator.randrange(_REACH)
        return index - back if repeats and index >= back else index
