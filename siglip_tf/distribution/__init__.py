"""The ring of replicas that the loss goes round (section 3.3), for every `tf.distribute` strategy."""

from siglip_tf.distribution.ring import Ring, current_ring

__all__ = ["Ring", "current_ring"]
