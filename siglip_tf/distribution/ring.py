"""The replicas of a strategy in a circle: each sends tensors to the next and receives those of the previous one.

The loss goes round this ring (section 3.3). Its code asks `current_ring`, which asks `tf.distribute`; a user never
chooses. One class a strategy says how a hop is made there.
"""

import abc
from collections.abc import Sequence

import tensorflow as tf

from siglip_tf.distribution.cluster import rank_in_cluster
from siglip_tf.distribution.collectives import devices_per_worker, permute_on_tpu, shift_between_workers


class Ring(abc.ABC):
    """The replicas of one strategy in a circle; replica r receives what replica r - 1 holds.

    Attributes:
        size: number of replicas D.
        loops: whether `shift` may be called inside `tf.while_loop`; where it may not, hops are unrolled in Python.
    """

    size: int
    loops: bool

    @abc.abstractmethod
    def shift(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Sends each tensor, of any static shape and dtype, to the next replica; returns those of the previous one."""

    @abc.abstractmethod
    def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The sum of each tensor over all replicas, the same on every replica."""

    @abc.abstractmethod
    def index(self) -> tf.Tensor:
        """A number in [0, D), int32 scalar, that names this replica. It says nothing of the order of the ring."""


class SingleDevice(Ring):
    """A ring of one: nothing travels."""

    size = 1
    loops = True

    def shift(self, tensors):
        return list(tensors)

    def sum(self, tensors):
        return list(tensors)

    def index(self):
        return tf.zeros((), tf.int32)


class StrategyRing(Ring):
    """What the rings of all strategies share: sums and ids come from the replica context."""

    def __init__(self, context: tf.distribute.ReplicaContext):
        self._context = context
        self.size = context.num_replicas_in_sync

    def sum(self, tensors):
        return list(self._context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))

    def index(self):
        return tf.cast(tf.convert_to_tensor(self._context.replica_id_in_sync_group), tf.int32)


class MirroredRing(StrategyRing):
    """Replicas in one process: each device reads its neighbor's tensor, which TensorFlow copies from device to device.

    `merge_call` cannot be traced inside `tf.while_loop`, hence `loops = False`.
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
    """One device in each of D worker processes; point to point, nothing is gathered.

    A stalled or dead neighbor ends the step with an error within a minute: the receive has a timeout, and the
    coordination service of TensorFlow reports a closed connection.
    """

    loops = True

    def __init__(self, strategy: tf.distribute.MultiWorkerMirroredStrategy, context: tf.distribute.ReplicaContext):
        devices = devices_per_worker(strategy)
        if devices != 1:
            raise ValueError(
                "The ring under MultiWorkerMirroredStrategy needs one device a worker. Received: "
                f"{devices} devices. Start one worker process a device (CUDA_VISIBLE_DEVICES) and list them all in "
                "TF_CONFIG."
            )
        super().__init__(context)
        self._rank = rank_in_cluster(strategy.cluster_resolver)

    def shift(self, tensors):
        return [shift_between_workers(t, self._rank, self.size) for t in tensors]


class TPURing(StrategyRing):
    """Chips of a slice."""

    loops = True

    def shift(self, tensors):
        return [permute_on_tpu(t, self.size) for t in tensors]


def current_ring() -> Ring:
    """The ring of the strategy whose replica is being traced.

    Raises:
        RuntimeError: in cross-replica context (outside `strategy.run`), where no replica's data is at hand.
        ValueError: for a strategy whose hop is not known. Negatives never fall back to one replica's own.
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
