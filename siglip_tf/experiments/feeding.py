"""Where a run's batches are made: in this process, or by input processes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from siglip_tf.distribution.tpu_system import input_hosts, is_remote


def feed(data: Any, inputs: str | None, strategy: tf.distribute.Strategy) -> Any:
    """Returns the run's data in the form that `train` accepts.

    Args:
        data: `TrainingData` or `EmbeddingData`.
        inputs: addresses of input processes as "host:port", separated by commas, or None.
        strategy: the strategy that trains.

    Raises:
        ValueError: if the chips are on remote hosts and there are no input processes, or if there are input processes
            and several workers.
    """
    if inputs is None:
        if is_remote(strategy):
            hosts = input_hosts(strategy)
            raise ValueError(
                f"The TPU's chips are on {hosts} host{'s' * (hosts > 1)} whose TensorFlow runtime knows no op of this "
                "project, so each needs an input process: start python -m tools.tpu_input on every host, and name them "
                "by --inputs HOST:PORT,... (docs/tpu.md)."
            )
        return data
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError("Expected no --inputs with TF_CONFIG: each worker makes its own share of the batches.")
    from siglip_tf.data.service import ServedData

    addresses = [address.strip() for address in inputs.split(",") if address.strip()]
    return ServedData(data, addresses)
