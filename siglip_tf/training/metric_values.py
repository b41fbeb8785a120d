"""The metrics of a step as plain numbers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def scalars(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Scalar metrics as Python floats. Other values are left out."""
    arrays = {name: np.asarray(value) for name, value in (logs or {}).items()}
    return {name: float(array.reshape(())) for name, array in arrays.items() if array.size == 1}


def json_safe(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """The metrics for a JSON file, which has no NaN: a value that is not finite becomes its text."""
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
