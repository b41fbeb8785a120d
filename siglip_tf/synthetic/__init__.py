"""The synthetic data set: drawn scenes with captions in several languages, and compositions held out."""

from siglip_tf.synthetic.captions import LANGUAGES, caption, class_names, class_prompts
from siglip_tf.synthetic.composition import COMPOSITIONS, HELD_OUT, SEEN, SPLITS, Scene, SceneObject
from siglip_tf.synthetic.source import SceneExample, SceneSource

__all__ = [
    "COMPOSITIONS",
    "HELD_OUT",
    "LANGUAGES",
    "SEEN",
    "SPLITS",
    "Scene",
    "SceneExample",
    "SceneObject",
    "SceneSource",
    "caption",
    "class_names",
    "class_prompts",
]
