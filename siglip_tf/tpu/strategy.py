"""The real `tf.distribute.TPUStrategy` on a simulated topology. Steps can be traced but not run, and need no TPU."""

from __future__ import annotations

import contextlib
import socket
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
# Servers that stand for the runtimes of hosts. They are kept here because a server ends with its object.
_HOSTS: list[tf.distribute.Server] = []


class _MadeUpResolver(cluster_resolver.ClusterResolver):
    """A simulated cluster of hosts with a given number of chips. A chip has one core; a v4 megacore counts as one."""

    task_type = task_id = None
    environment = ""

    def __init__(self, replicas: int, hosts: int):
        self._replicas, self._hosts = replicas, hosts
        self._job = "localhost" if hosts == 1 else "worker"
        columns = next(c for c in range(min(_CHIPS_PER_ROW, replicas), 0, -1) if replicas % c == 0)
        rows = replicas // columns
        coordinates = np.array([[x, y, 0, 0] for y in range(rows) for x in range(columns)])
        self.made_up_topology = topology_lib.Topology(
            mesh_shape=[columns, rows, 1, 1], device_coordinates=coordinates.reshape(hosts, replicas // hosts, 4)
        )

    def cluster_spec(self):
        return server_lib.ClusterSpec({})

    def master(self, *unused, **also_unused):
        return ""

    def num_accelerators(self, *unused, **also_unused):
        return {"TPU": self._replicas // self._hosts}

    def get_job_name(self):
        return self._job

    def get_tpu_system_metadata(self):
        chips = self._replicas // self._hosts
        names = [(host, "TPU", chip) for host in range(self._hosts) for chip in range(chips)]
        names += [(host, "CPU", 0) for host in range(self._hosts)]
        devices = [
            _DeviceAttributes(f"/job:{self._job}/replica:0/task:{host}/device:{kind}:{number}", kind, 0, i)
            for i, (host, kind, number) in enumerate(names)
        ]
        return tpu_system_metadata.TPUSystemMetadata(
            num_cores=self._replicas,
            num_hosts=self._hosts,
            num_of_cores_per_host=chips,
            topology=self.made_up_topology,
            devices=devices,
        )


def made_up_tpu_strategy(replicas: int, hosts: int = 1) -> tf.distribute.TPUStrategy:
    """Returns a TPUStrategy of `replicas` replicas on a machine without a TPU.

    Variables, distributed data sets, `train_step`, and the whole `model.fit` can be built and traced under it. Running
    a step raises "No OpKernel was registered to support Op 'TPUReplicatedInput'". Soft placement puts the variables on
    the CPU.

    Args:
        replicas: number of chips, at least 1.
        hosts: number of hosts, each with its own input pipeline (see `Topology.hosts`). For several hosts, this process
            starts one TensorFlow server per host, which stands for the host's runtime. In that case, call this function
            before TensorFlow runs anything else.

    Raises:
        ValueError: if `replicas` or `hosts` is not a positive integer, or `hosts` does not divide `replicas`.
    """
    for name, value in (("replicas", replicas), ("hosts", hosts)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"Expected a positive whole number of {name}. Received: {name}={value!r}")
    if replicas % hosts:
        raise ValueError(f"Expected hosts that share {replicas} replicas evenly. Received: hosts={hosts}")
    tf.config.set_soft_device_placement(True)
    if hosts > 1:
        _connect_to_hosts(hosts)
    resolver = _MadeUpResolver(replicas, hosts)
    # TPUStrategy needs an initialized TPU system, and looks it up here.
    tpu_strategy_util._INITIALIZED_TPU_SYSTEMS[""] = resolver.made_up_topology
    return tf.distribute.TPUStrategy(resolver)


def _connect_to_hosts(hosts: int) -> None:
    if len(_HOSTS) != hosts:
        if _HOSTS:
            raise ValueError(f"This process made {len(_HOSTS)} hosts before. Received: hosts={hosts}")
        ports = [_free_port() for _ in range(hosts)]
        cluster = tf.train.ClusterSpec({"worker": [f"localhost:{port}" for port in ports]})
        _HOSTS.extend(tf.distribute.Server(cluster, job_name="worker", task_index=i) for i in range(hosts))
        tf.config.experimental_connect_to_cluster(cluster)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def weightless_scope(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Enters `strategy.scope()` so that new variables have a name, a shape, and a dtype, but no memory.

    A model with a billion weights on 32 replicas can then be built, and its training step traced, with almost no
    memory. The values of variables are empty. Initializers are traced for their shape but never run.
    """

    def only_the_shape(next_creator, **kwargs):
        value = kwargs.pop("initial_value")
        if callable(value):
            with tf.Graph().as_default():
                value = tf.convert_to_tensor(value(), dtype=kwargs.get("dtype"))
        else:
            value = tf.convert_to_tensor(value, dtype=kwargs.get("dtype"))
        # The strategy's creator does not change an initial value that is not callable.
        kwargs.update(initial_value=(), shape=value.shape, dtype=value.dtype)
        return next_creator(**kwargs)

    def no_memory(next_creator, **kwargs):
        del next_creator
        kwargs.pop("initial_value")
        with tf.device(
            "/job:localhost/replica:0/task:0/device:CPU:0"
        ):  # the simulated chips of other hosts are not real devices
            return resource_variable_ops.UninitializedVariable(**kwargs)

    # The creator that is entered last is called first: the shape, the strategy's copies, then the handle of each copy.
    with tf.variable_creator_scope(no_memory), strategy.scope(), tf.variable_creator_scope(only_the_shape):
        yield
