"""siglip_tf: image-text pre-training with the sigmoid loss, in TensorFlow and Keras.

Source: "Sigmoid Loss for Language Image Pre-Training", https://arxiv.org/abs/2303.15343
"""

import importlib
import re
import sys
from typing import Any

from siglip_tf import processor
from siglip_tf.version import __version__

__all__ = ["SigLIP", "__version__", "backend", "losses", "models", "processor"]

# Commands that do not import TensorFlow at once: `python -m recipes.siglip` and `siglip-tf train`, which first check
# their arguments, and `siglip-tf` without a verb, which only prints its help or its version.
_WAITS = re.compile(r" -m (siglip_tf\.)?recipes\.(?!studies)|\bsiglip-tf( train\b| -|$)")
_PUBLIC = "siglip_tf.public"

processor.use_onednn()  # `load` imports TensorFlow, which then reads this switch.


def load() -> None:
    """Imports the public names of the package, and TensorFlow. `import siglip_tf` does it except in some commands."""
    public = importlib.import_module(_PUBLIC)
    globals().update({name: getattr(public, name) for name in public.__all__})


def __getattr__(name: str) -> Any:
    if name not in __all__ or _PUBLIC in sys.modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    load()
    return globals()[name]


if not _WAITS.search(" ".join(sys.orig_argv)):
    load()
