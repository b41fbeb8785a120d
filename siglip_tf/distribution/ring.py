"""Which ring the code that is being traced stands on: the model asks `tf.distribute`, a user never chooses."""

import abc
from collections.abc import Sequence

import tensorflow as tf


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


class StrategyRing(Ring):
    """What the rings of all strategies share: sums and ids come from the replica context."""

    def __init__(self, context):
        self._context = context
        self.size = context.num_replicas_in_sync

    def sum(self, tensors):
        return list(self._context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))

    def index(self):
        return tf.cast(tf.convert_to_tensor(self._context.replica_id_in_sync_group), tf.int32)


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


def current_ring() -> Ring:
    """The ring of the strategy whose replica is being traced.

    Raises:
        RuntimeError: in cross-replica context (outside `strategy.run`), where no replica's data is at hand.
        ValueError: for a strategy whose hop is not known. Negatives never fall back to one replica's own.
    """
    from siglip_tf.distribution.mirrored import MirroredRing
    from siglip_tf.distribution.multi_worker import MultiWorkerRing
    from siglip_tf.distribution.tpu import TPURing

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
