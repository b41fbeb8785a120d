"""The replicas of a strategy as a ring: each replica sends tensors to the next and receives those of the previous one.

The loss uses this ring (section 3.3). It calls `current_ring`, which finds the ring of the current `tf.distribute`
strategy, so a user never chooses. Each strategy has a class that implements its hop.
"""

import abc
from collections.abc import Sequence

import tensorflow as tf

from siglip_tf.distribution.cluster import rank_in_cluster
from siglip_tf.distribution.collectives import devices_per_worker, permute_on_tpu, shift_between_workers


class Ring(abc.ABC):
    """The replicas of one strategy as a ring. Replica r receives what replica r - 1 holds.

    Attributes:
        size: number of replicas D.
        loops: whether `shift` may be called inside `tf.while_loop`. If not, the loss unrolls the hops in Python.
    """

    size: int
    loops: bool

    @abc.abstractmethod
    def shift(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Sends tensors of any static shape and dtype to the next replica, and returns the previous replica's."""

    @abc.abstractmethod
    def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the sum of each tensor over all replicas. Every replica gets the same result."""

    @abc.abstractmethod
    def index(self) -> tf.Tensor:
        """Returns this replica's number in [0, D), an int32 scalar. It is not the replica's place in the ring."""


class SingleDevice(Ring):
    """A ring of one replica, which sends nothing."""

    size = 1
    loops = True

    def shift(self, tensors):
        return list(tensors)

    def sum(self, tensors):
        return list(tensors)

    def index(self):
        return tf.zeros((), tf.int32)


class StrategyRing(Ring):
    """The common part of the rings of all strategies: sums and ids come from the replica context."""

    def __init__(self, context: tf.distribute.ReplicaContext):
        self._context = context
        self.size = context.num_replicas_in_sync

    def sum(self, tensors):
        return list(self._context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))

    def index(self):
        return tf.cast(tf.convert_to_tensor(self._context.replica_id_in_sync_group), tf.int32)


class MirroredRing(StrategyRing):
    """The replicas of one process. TensorFlow copies the tensor of the previous device to each device.

    `loops` is False, because `merge_call` cannot be traced inside `tf.while_loop`.
    """

    loops = False

    def shift(self, tensors):
        def merge(strategy, *values):
            rotated = []
            for value in values:
                local = strategy.experimental_local_results(value)
                rotated.append(
                    strategy.experimental_distribute_values_from_function(
                        lambda replica, local=local: local[(replica.replica_id_in_sync_group - 1) % self.size]
                    )
                )
            return rotated

        return [tf.identity(t) for t in self._context.merge_call(merge, args=tuple(tensors))]


class MultiWorkerRing(StrategyRing):
    """One device in each of D worker processes. Workers send tensors point to point, and nothing is gathered.

    If a neighbor stalls or ends, the step ends with an error within a minute, because the receive has a timeout and
    TensorFlow's coordination service reports a closed connection.
    """

    loops = True

    def __init__(self, strategy: tf.distribute.MultiWorkerMirroredStrategy, context: tf.distribute.ReplicaContext):
        devices = devices_per_worker(strategy)
        if devices != 1:
            raise ValueError(
                "The ring under MultiWorkerMirroredStrategy needs one device per worker. Received: "
                f"{devices} devices. Start one worker process per device (CUDA_VISIBLE_DEVICES) and list all of them "
                "in TF_CONFIG."
            )
        super().__init__(context)
        self._rank = rank_in_cluster(strategy.cluster_resolver)

    def shift(self, tensors):
        return [shift_between_workers(t, self._rank, self.size) for t in tensors]


class TPURing(StrategyRing):
    """The chips of a TPU slice."""

    loops = True

    def shift(self, tensors):
        return [permute_on_tpu(t, self.size) for t in tensors]


def current_ring() -> Ring:
    """Returns the ring of the strategy whose replica is being traced.

    Raises:
        RuntimeError: the context is a cross-replica context (outside `strategy.run`), which has no replica's data.
        ValueError: the strategy is not supported. The loss never falls back to the negatives of one replica.
    """
    context = tf.distribute.get_replica_context()
    strategy = tf.distribute.get_strategy()
    if context is None:
        raise RuntimeError(
            f"The loss needs a replica context of {type(strategy).__name__}. Received: a cross-replica context. "
            "Call it inside `strategy.run(...)`; `model.fit` does so."
        )
    if context.num_replicas_in_sync == 1:
        return SingleDevice()
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return TPURing(context)
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return MultiWorkerRing(strategy, context)
    if isinstance(strategy, tf.distribute.MirroredStrategy):
        return MirroredRing(context)
    raise ValueError(
        f"No ring is known for {type(strategy).__name__}. Expected: one device, MirroredStrategy, "
        "MultiWorkerMirroredStrategy or TPUStrategy."
    )
