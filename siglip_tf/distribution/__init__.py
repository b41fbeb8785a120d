"""The distribution strategy of this machine, and the ring of replicas that the loss uses (section 3.3).

`finding` chooses the strategy. `cluster` reads TF_CONFIG for it, `rendezvous` waits for the other workers, and
`tpu_system` connects to a TPU. `ring` implements a hop (a send to the next replica) for every strategy, and
`collectives` holds the hops that have no public function in TensorFlow.
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
