"""The synthetic data set: drawn scenes with captions in several languages, and held-out compositions."""

from siglip_tf.synthetic.captions import LANGUAGES, caption, class_names, class_prompts
from siglip_tf.synthetic.composition import COMPOSITIONS, HELD_OUT, SEEN, SPLITS, Scene, SceneObject
from siglip_tf.synthetic.crowded import CROWDED_COMPOSITIONS
from siglip_tf.synthetic.crowded_captions import crowded_caption, crowded_prompts
from siglip_tf.synthetic.source import LEVELS, SceneExample, SceneSource
from siglip_tf.synthetic.web_noise import WebNoise

__all__ = [
    "COMPOSITIONS",
    "CROWDED_COMPOSITIONS",
    "HELD_OUT",
    "LANGUAGES",
    "LEVELS",
    "SEEN",
    "SPLITS",
    "Scene",
    "SceneExample",
    "SceneObject",
    "SceneSource",
    "WebNoise",
    "caption",
    "class_names",
    "class_prompts",
    "crowded_caption",
    "crowded_prompts",
]
