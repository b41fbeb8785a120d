"""Divides a global batch into chunks for input processes, and joins the chunks on the hosts that they feed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

# A chunk is one message, and a protocol buffer holds at most 2 GiB. Smaller messages also arrive sooner.
_CHUNK_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Cut:
    """How one global batch is divided into chunks.

    Attributes:
        inputs: number of input processes, each of which makes an equal share.
        hosts: number of input pipelines of the strategy; 1 if the coordinator itself trains.
        replicas: number of replicas of the strategy.
        chunks: number of chunks in a global batch; a multiple of `inputs` and of `replicas`.
    """

    inputs: int
    hosts: int
    replicas: int
    chunks: int

    @property
    def inputs_a_host(self) -> int:
        return self.inputs // self.hosts

    @property
    def chunks_an_input(self) -> int:
        return self.chunks // self.inputs

    @property
    def chunks_a_replica(self) -> int:
        return self.chunks // self.replicas

    def context(self, index: int) -> tf.distribute.InputContext:
        """The share of one input process, as `TrainingData.dataset` takes it."""
        return tf.distribute.InputContext(
            num_input_pipelines=self.inputs, input_pipeline_id=index, num_replicas_in_sync=self.chunks
        )


def cut(global_batch: int, pair_bytes: int, inputs: int, hosts: int, replicas: int) -> Cut:
    """Finds the smallest number of chunks that are small enough to send and that share out evenly.

    The number is a multiple of the numbers of input processes and of replicas.

    Args:
        global_batch: pairs per step.
        pair_bytes: size of one pair of a batch, in bytes.
        inputs: number of input processes.
        hosts: number of hosts, each fed by `inputs / hosts` input processes.
        replicas: number of replicas on all hosts.

    Raises:
        ValueError: the numbers do not divide each other.
    """
    if inputs % hosts:
        raise ValueError(
            f"{inputs} input processes cannot feed {hosts} hosts equally: their number must be a multiple of the "
            "number of hosts."
        )
    least = math.lcm(inputs, replicas)
    if global_batch % least:
        raise ValueError(
            f"Expected a global batch that {inputs} input processes and {replicas} replicas divide. Received: "
            f"{global_batch}, which is not a multiple of {least}."
        )
    sizes = [n for n in range(least, global_batch + 1, least) if global_batch % n == 0]
    chunks = next((n for n in sizes if global_batch // n * pair_bytes <= _CHUNK_BYTES), sizes[-1])
    return Cut(inputs, hosts, replicas, chunks)


def put_together(parts: Sequence[tf.data.Dataset], cut: Cut) -> tf.data.Dataset:
    """Joins the chunks of a host's input processes to batches, one for each replica of the host in turn.

    It uses TensorFlow's own ops only, because a TPU host's runtime has no others.
    """
    chunks = parts[0]
    if len(parts) > 1:
        turns = (
            tf.data.Dataset.range(len(parts))
            .repeat()
            .flat_map(lambda part: tf.data.Dataset.from_tensors(part).repeat(cut.chunks_an_input))
        )
        chunks = tf.data.Dataset.choose_from_datasets(list(parts), turns)
    if cut.chunks_a_replica > 1:
        chunks = chunks.batch(cut.chunks_a_replica, drop_remainder=True).map(_joined)
    return chunks


@tf.autograph.experimental.do_not_convert
def _joined(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    def join(value: tf.Tensor) -> tf.Tensor:
        return tf.reshape(value, (value.shape[0] * value.shape[1], *value.shape[2:]))

    return tf.nest.map_structure(join, batch)
