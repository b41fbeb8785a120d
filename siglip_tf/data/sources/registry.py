"""Sources that other packages of this project provide by name, such as the synthetic data.

`siglip_tf/__init__.py` registers them, so that nothing in `data` imports a package that depends on it.
"""

from collections.abc import Callable
from typing import Any

Opener = Callable[..., Any]

_OPENERS: dict[str, Opener] = {}


def register(opener: Opener, *names: str) -> None:
    """Makes `open_source(name)` call `opener(split=..., **options)`, which returns a `Source`."""
    for name in names:
        _OPENERS[name] = opener


def registered(name: str) -> Opener | None:
    """Returns the opener of a name, or None."""
    return _OPENERS.get(name)
