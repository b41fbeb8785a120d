"""The strategy of this machine, and the ring of replicas that the loss goes round (section 3.3) under any strategy."""

from siglip_tf.distribution.finding import describe, find_strategy, local_strategy
from siglip_tf.distribution.ring import Ring, current_ring

__all__ = ["Ring", "current_ring", "describe", "find_strategy", "local_strategy"]
