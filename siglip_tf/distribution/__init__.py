"""The strategy of this machine, and the ring of replicas that the loss goes round (section 3.3) under any strategy.

`finding` chooses the strategy; `cluster` reads TF_CONFIG for it and `rendezvous` waits for the other workers. `ring`
has a hop for every strategy, and `collectives` holds what TensorFlow offers no public function for.
"""

from siglip_tf.distribution.cluster import Cluster, rank_in_cluster, read_tf_config
from siglip_tf.distribution.finding import describe, find_strategy, local_strategy, recommended_dtype_policy
from siglip_tf.distribution.ring import Ring, SingleDevice, current_ring

__all__ = [
    "Cluster",
    "Ring",
    "SingleDevice",
    "current_ring",
    "describe",
    "find_strategy",
    "local_strategy",
    "rank_in_cluster",
    "read_tf_config",
    "recommended_dtype_policy",
]
