"""The part of every global batch that a worker reads, for all kinds of training data."""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Share:
    """What one worker contributes to every step.

    Attributes:
        worker: the worker's number.
        all_streams: how many streams all workers have together.
        streams: the worker's own streams.
        batches: how many batches the worker makes per step, one for each of its replicas.
        size: number of pairs in each of these batches.
    """

    worker: int
    all_streams: int
    streams: range
    batches: int
    size: int


def share_of(context: tf.distribute.InputContext | None, global_batch: int, streams: int | None) -> Share:
    """Returns the share of the worker that builds its data set.

    Args:
        context: as `distribute_datasets_from_function` passes it. None means a single worker, whose batches are whole
            global batches.
        global_batch: pairs per step, over all workers and replicas.
        streams: number of equal parts of the global batch; None means one per worker.

    Raises:
        ValueError: the numbers of pairs, streams, workers, and replicas do not divide each other.
    """
    worker, workers, replicas = 0, 1, 1
    if context is not None:
        worker, workers = context.input_pipeline_id, context.num_input_pipelines
        replicas = context.num_replicas_in_sync
    streams = streams or workers
    if streams % workers:
        raise ValueError(
            f"{streams} streams cannot be shared by {workers} workers: streams must be a multiple of workers."
        )
    if global_batch % streams or global_batch % replicas:
        raise ValueError(
            f"global_batch must be a multiple of the {streams} streams and of the {replicas} replicas. "
            f"Received: {global_batch}"
        )
    return Share(
        worker=worker,
        all_streams=streams,
        streams=range(worker * streams // workers, (worker + 1) * streams // workers),
        batches=max(replicas // workers, 1),
        size=global_batch // max(replicas, workers),
    )


def check_batch_and_seed(global_batch: int, seed: int) -> None:
    """Checks the arguments that all kinds of training data have.

    Raises:
        ValueError: an argument is out of range.
    """
    if global_batch < 1:
        raise ValueError(f"global_batch must be at least 1. Received: {global_batch}")
    if not 0 <= seed < 1 << 40:
        raise ValueError(f"seed must lie in [0, 2^40). Received: {seed}")


def own_batches(batches: tf.data.Dataset, prefetch: int, deterministic: bool = True) -> tf.data.Dataset:
    """Returns a worker's batches for `distribute_datasets_from_function`, with `prefetch` batches kept ready."""
    options = tf.data.Options()
    options.deterministic = deterministic
    # Each worker already reads its own part.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(prefetch).with_options(options)
