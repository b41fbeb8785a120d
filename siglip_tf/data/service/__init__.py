"""Training data for TPU hosts, whose runtimes do not have this project's ops, by TensorFlow's tf.data service.

Under TPUStrategy one process, the coordinator, runs `fit`, and the TensorFlow runtime of every TPU host makes that
host's part of the data set. A runtime is a plain TensorFlow server: it has no Python and none of this project's ops.
So an input process of this project makes the batches, and the runtime receives them.

    input process     makes a share of every global batch and serves it (`InputServer`, `siglip-tf tpu-input`)
    runtime           the TensorFlow server of a TPU host; receives the batches of its host's input processes
    coordinator       the process that trains; it tells input processes where to start (`ServedData`)
    share             the part of every global batch that one input process makes
    chunk             the batch that is sent: as large as a replica's batch, or an equal part of it
    session           the time between two calls of the coordinator's `dataset`; a position belongs to a session

Batches are sent by tf.data service. Everything else (who serves what, where to start, positions, faults) is JSON over
HTTP without passwords, so use a private network.
"""

from siglip_tf.data.service.client import InputProcessError
from siglip_tf.data.service.served import ServedData
from siglip_tf.data.service.server import InputServer

__all__ = ["InputProcessError", "InputServer", "ServedData"]
