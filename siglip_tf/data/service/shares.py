"""How a global batch is cut for input processes and put together again on the hosts that they feed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

# A batch travels as one message, and protocol buffers end at 2 GiB. Smaller messages also leave less to wait for.
_CHUNK_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Cut:
    """The chunks of one global batch.

    Attributes:
        inputs: input processes, each of which makes an equal share.
        hosts: input pipelines of the strategy; 1 where the coordinator trains by itself.
        replicas: of the strategy.
        chunks: into which a global batch is cut; a multiple of `inputs` and of `replicas`.
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
    """The fewest chunks that input processes and replicas divide and that are small enough to travel.

    Args:
        global_batch: pairs per step.
        pair_bytes: bytes of one pair of a batch.
        inputs: number of input processes.
        hosts: number of hosts, each fed by `inputs / hosts` of them.
        replicas: number of replicas on all hosts.

    Raises:
        ValueError: numbers that do not divide each other.
    """
    if inputs % hosts:
        raise ValueError(
            f"{inputs} input processes cannot feed {hosts} hosts alike: their number must be a multiple of the hosts'."
        )
    least = math.lcm(inputs, replicas)
    if global_batch % least:
        raise ValueError(
            f"Expected a global batch that {inputs} input processes and {replicas} replicas divide. Received: "
            f"{global_batch}, which is no multiple of {least}."
        )
    sizes = [n for n in range(least, global_batch + 1, least) if global_batch % n == 0]
    chunks = next((n for n in sizes if global_batch // n * pair_bytes <= _CHUNK_BYTES), sizes[-1])
    return Cut(inputs, hosts, replicas, chunks)


def put_together(parts: Sequence[tf.data.Dataset], cut: Cut) -> tf.data.Dataset:
    """One host's batches, one for each of its replicas in turn, from its input processes' chunks.

    It consists of TensorFlow's own ops alone, as a TPU host's runtime knows no other.
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
