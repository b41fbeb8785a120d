"""The values of the calibration page: figures, and both curves as points in a plot with logarithmic axes."""

import math
from collections.abc import Mapping
from typing import Any

from siglip_tf import pages
from siglip_tf.evaluation.calibration import Curve

_SIDE, _MARGIN = 420, 52
_LEAST = 1e-6  # smaller values are drawn at the axis


def page_values(figures: Mapping[str, Any], before: Curve, after: Curve) -> dict[str, Any]:
    """Returns the values of the template `calibrate.html`.

    Args:
        figures: the content of `calibration.json`.
        before: the calibration curve of the checkpoint.
        after: the calibration curve after the fit.
    """
    fitted = figures["scale"] != 1 or figures["bias"] != 0
    curves = [("before", before), ("after", after)] if fitted else [("as it is", after)]
    error = figures["calibration_error"]
    asked = ", ".join(f"{name} {value:g}" for name, value in figures["asked"].items())
    return {
        "title": f"Calibration of {figures['checkpoint']}",
        "tiles_shown": [
            ("threshold", f"{figures['threshold']:.3g}"),
            ("precision", pages.share_text(figures["reached"]["precision"])),
            ("recall", pages.share_text(figures["reached"]["recall"])),
            ("calibration error before", f"{error['before']:.2g}"),
            ("calibration error after", f"{error['after']:.2g}"),
        ],
        "facts_shown": [
            ("sample", figures["sample"]),
            ("pairs", f"{figures['pairs']:,}"),
            ("asked for", asked),
            ("scale and bias on the logits", f"{figures['scale']:.4g} and {figures['bias']:.4g}"),
            ("siglip_tf", figures["siglip_tf"]),
        ],
        "labels": sorted(figures["labels"].items()),
        "side": _SIDE,
        "margin": _MARGIN,
        "ticks": [(f"{10.0**power:g}", _place(10.0**power)) for power in range(-6, 1)],
        "threshold_at": _place(figures["threshold"]),
        "curves": [
            {"name": name, "points": [(_place(x), _place(y)) for x, y in zip(c.probability, c.matches, strict=True)]}
            for name, c in curves
        ],
    }


def _place(value: float) -> float:
    """Returns the position on the logarithmic axis: 0 at its smallest value, 1 at a probability of one."""
    return 1 - math.log10(max(float(value), _LEAST)) / math.log10(_LEAST)
