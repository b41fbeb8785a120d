"""The image tower, the text tower, and the SigLIP model that trains them."""

from siglip_tf.models.fine_tuning import layerwise_decay
from siglip_tf.models.image_tower import ImageTower
from siglip_tf.models.siglip import SigLIP
from siglip_tf.models.text_tower import TextTower
from siglip_tf.models.variants import VARIANTS, TowerSize

__all__ = ["VARIANTS", "ImageTower", "SigLIP", "TextTower", "TowerSize", "layerwise_decay"]
