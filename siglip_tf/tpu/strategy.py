"""The real `tf.distribute.TPUStrategy` over a made-up topology: everything traces, nothing runs, no TPU is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.python.client.session import _DeviceAttributes
from tensorflow.python.distribute.cluster_resolver import cluster_resolver
from tensorflow.python.ops import resource_variable_ops
from tensorflow.python.tpu import topology as topology_lib
from tensorflow.python.tpu import tpu_strategy_util, tpu_system_metadata
from tensorflow.python.training import server_lib

_CHIPS_PER_ROW = 4
_LOCAL = "/job:localhost/replica:0/task:0/device:"


class _MadeUpResolver(cluster_resolver.ClusterResolver):
    """A cluster of one host with as many chips as asked for, one core each (a v4 megacore counts as one)."""

    task_type = task_id = None
    environment = ""

    def __init__(self, replicas: int):
        self._replicas = replicas
        columns = next(c for c in range(min(_CHIPS_PER_ROW, replicas), 0, -1) if replicas % c == 0)
        rows = replicas // columns
        coordinates = [[x, y, 0, 0] for y in range(rows) for x in range(columns)]
        self.made_up_topology = topology_lib.Topology(
            mesh_shape=[columns, rows, 1, 1], device_coordinates=np.array([coordinates])
        )

    def cluster_spec(self):
        return server_lib.ClusterSpec({})

    def master(self, *unused, **also_unused):
        return ""

    def num_accelerators(self, *unused, **also_unused):
        return {"TPU": self._replicas}

    def get_job_name(self):
        return "localhost"

    def get_tpu_system_metadata(self):
        devices = [_DeviceAttributes(f"{_LOCAL}TPU:{i}", "TPU", 0, i) for i in range(self._replicas)]
        devices.append(_DeviceAttributes(f"{_LOCAL}CPU:0", "CPU", 0, self._replicas))
        return tpu_system_metadata.TPUSystemMetadata(
            num_cores=self._replicas,
            num_hosts=1,
            num_of_cores_per_host=self._replicas,
            topology=self.made_up_topology,
            devices=devices,
        )


def made_up_tpu_strategy(replicas: int) -> tf.distribute.TPUStrategy:
    """Returns a TPUStrategy of `replicas` replicas on a machine with no TPU.

    Variables, distributed data sets, `train_step` and the whole of `model.fit` build and trace under it; running stops
    at "No OpKernel was registered to support Op 'TPUReplicatedInput'". Soft placement puts the variables on the CPU.

    Args:
        replicas: number of chips, 1 or more.

    Raises:
        ValueError: `replicas` is no positive whole number.
    """
    if not isinstance(replicas, int) or replicas < 1:
        raise ValueError(f"Expected a positive whole number of replicas. Received: replicas={replicas!r}")
    tf.config.set_soft_device_placement(True)
    resolver = _MadeUpResolver(replicas)
    # TPUStrategy asks for an initialised TPU system; this is where it looks one up.
    tpu_strategy_util._INITIALIZED_TPU_SYSTEMS[""] = resolver.made_up_topology
    return tf.distribute.TPUStrategy(resolver)


@contextlib.contextmanager
def weightless_scope(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Enters `strategy.scope()` so that new variables have a name, a shape and a dtype, but no memory.

    A model of a billion weights on 32 replicas then builds, and its training step traces, in no memory to speak of;
    a value that is read is empty. Initialisers are traced for their shape and never run.
    """

    def only_the_shape(next_creator, **kwargs):
        value = kwargs.pop("initial_value")
        if callable(value):
            with tf.Graph().as_default():
                value = tf.convert_to_tensor(value(), dtype=kwargs.get("dtype"))
        else:
            value = tf.convert_to_tensor(value, dtype=kwargs.get("dtype"))
        # Anything that is not callable passes through the strategy's creator untouched.
        kwargs.update(initial_value=(), shape=value.shape, dtype=value.dtype)
        return next_creator(**kwargs)

    def no_memory(next_creator, **kwargs):
        del next_creator
        kwargs.pop("initial_value")
        return resource_variable_ops.UninitializedVariable(**kwargs)

    # The creator entered last is asked first: shape, then the strategy's copies, then the handle of each copy.
    with tf.variable_creator_scope(no_memory), strategy.scope(), tf.variable_creator_scope(only_the_shape):
        yield
