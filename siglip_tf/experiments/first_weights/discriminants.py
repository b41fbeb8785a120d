"""Linear discriminant analysis: which differences between pictures do not describe the thing that they show."""

from __future__ import annotations

import numpy as np

# The fraction of the components' mean variance within classes that is added to each variance, and how many differences
# between pictures of the same thing are needed per component.
_SHRINK, _DIFFERENCES = 0.3, 2
# A component with variance v gets the weight v^-_FLATTEN, so that large components do not hide small ones and noise
# stays small.
_FLATTEN = 0.25
# The smallest variance, relative to the largest, for this. Few pictures do not vary in most directions, others do.
_LEAST = 1e-3


def within(rows: np.ndarray, things: np.ndarray) -> np.ndarray:
    """Returns the matrix that makes the differences between pictures of the same thing equal in all directions, nearly.

    If too few pictures show the same thing, the matrix makes the deviations of all components more equal instead.

    Args:
        rows: float64 (pictures, components) with mean 0.
        things: int (pictures,) from 0 on, equal for pictures of the same thing.

    Returns:
        float64 (components, components), symmetric.
    """
    counts = np.bincount(things)
    components = rows.shape[1]
    if len(rows) - len(counts) >= _DIFFERENCES * components:
        means = np.zeros((len(counts), components))
        np.add.at(means, things, rows)
        apart = rows - (means / np.maximum(counts, 1)[:, None])[things]
        covariance = apart.T @ apart / (len(rows) - len(counts))
        values, axes = np.linalg.eigh(covariance + _SHRINK * np.trace(covariance) / components * np.eye(components))
        if values[0] > 1e-9 * np.square(rows).mean():  # otherwise the pictures of a thing are copies
            return axes * values**-0.5 @ axes.T
    values, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    return axes * np.maximum(values / values[-1], _LEAST) ** -_FLATTEN @ axes.T
