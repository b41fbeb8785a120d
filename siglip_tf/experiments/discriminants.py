"""Linear discriminant analysis, as first weights need it: which differences between pictures say nothing of a thing."""

from __future__ import annotations

import numpy as np

# How much of a component's mean variance within classes is added to that of each, and how many differences between
# pictures of one thing are needed for each component.
_SHRINK, _DIFFERENCES = 0.3, 2
# A component of variance v gets the weight v^-_FLATTEN: large ones do not drown small ones, and noise stays small.
_FLATTEN = 0.25


def within(rows: np.ndarray, things: np.ndarray) -> np.ndarray:
    """The matrix that makes the differences between pictures of one thing alike in all directions, nearly.

    Where too few pictures share a thing, it makes the differences between all pictures more alike.

    Args:
        rows: components of the pictures with mean 0, float64 (pictures, components).
        things: int (pictures,), what each shows.
    """
    counts = np.bincount(things)
    components = rows.shape[1]
    if len(rows) - len(counts) >= _DIFFERENCES * components:
        means = np.zeros((len(counts), components))
        np.add.at(means, things, rows)
        apart = rows - (means / np.maximum(counts, 1)[:, None])[things]
        covariance = apart.T @ apart / (len(rows) - len(counts))
        values, axes = np.linalg.eigh(covariance + _SHRINK * np.trace(covariance) / components * np.eye(components))
        if values[0] > 1e-9 * np.square(rows).mean():  # or else the pictures of a thing are copies
            return axes * values**-0.5 @ axes.T
    values, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    return axes * np.maximum(values / values[-1], 1e-6) ** -_FLATTEN @ axes.T
