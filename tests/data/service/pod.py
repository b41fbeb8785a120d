"""Hosts of a TPU without chips: bare TensorFlow servers, an input process for each, and a coordinator.

usage: python -m tests.data.service.pod FOLDER HOSTS KINDS STEPS KILLS [PORT]

For each kind (names with commas between) `STEPS` global batches from the hosts' runtimes are compared with one host's,
bit by bit. Input processes are killed and started again `KILLS` times on the way, at random; each time a new
coordinator continues where the old one would have saved a checkpoint. A count of hosts that is written `4-2` means that
4 hosts make the first half, and 2 the rest.
"""

import random
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from siglip_tf.data.service import ServedData
from tests.data.service.sources import training_data

# What a TPU host's runtime is: it imports TensorFlow and nothing of this project.
_RUNTIME = (
    "import sys, tensorflow as tf; cluster = tf.train.ClusterSpec({'worker': sys.argv[2].split(',')}); "
    "server = tf.distribute.Server(cluster, job_name='worker', task_index=int(sys.argv[1])); print('up', flush=True); "
    "server.join()"
)


def free_ports(count):
    import socket

    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Inputs:
    """One input process for each host, for one kind of data."""

    def __init__(self, folder, kind, count):
        self._folder, self._kind, self._count = folder, kind, count
        self.ports = free_ports(count)
        self._processes = [self._start(i) for i in range(count)]
        for process in self._processes:
            assert process.stdout.readline().startswith("ports")
        self.addresses = [f"localhost:{port}" for port in self.ports]

    def _start(self, index):
        where = (str(index), str(self._count), str(self.ports[index]))
        command = [sys.executable, "-m", "tests.data.service.sources", str(self._folder), *where, self._kind]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def kill_one(self, index):
        self._processes[index].kill()
        self._processes[index].wait()
        self._processes[index] = self._start(index)
        assert self._processes[index].stdout.readline().startswith("ports")

    def close(self):
        for process in self._processes:
            process.kill()
            process.wait()


def global_batches(served, hosts, replicas):
    """Iterates over global batches, each made by the runtimes of all hosts."""
    iterators = []
    for host in range(hosts):
        with tf.device(f"/job:worker/replica:0/task:{host}/device:CPU:0"):
            iterators.append(iter(served.dataset(tf.distribute.InputContext(hosts, host, replicas))))
    while True:
        parts = []
        for host, iterator in enumerate(iterators):
            for _ in range(replicas // hosts):
                batch = next(iterator)
                assert all(f"/job:worker/replica:0/task:{host}/" in value.device for value in batch.values()), batch
                parts.append({key: value.numpy() for key, value in batch.items()})
        yield {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def compare(folder, kind, hosts, later, steps, kills, chance):
    local = training_data(kind, folder, streams=hosts)
    wanted = iter(local.dataset())
    inputs = Inputs(folder, kind, hosts)
    kill_before = set(chance.sample(range(1, steps), kills))
    step, state, now = 0, None, hosts
    try:
        while step < steps:
            if later and step >= steps // 2 and now != later:
                inputs.close()
                inputs, now = Inputs(folder, kind, later), later
            served = ServedData(training_data(kind, folder, streams=hosts), inputs.addresses)
            if state is not None:
                served.restore(state)
            end = next((k for k in sorted(kill_before) if k > step), steps)
            end = min(end, steps // 2) if later and step < steps // 2 else end
            for found in global_batches(served, now, 2 * now):
                expected = next(wanted)
                for key, value in expected.items():
                    np.testing.assert_array_equal(found[key], value.numpy(), f"{kind}, step {step}, {key}")
                step += 1
                if step == end:
                    break
            state = served.state(step)
            assert state == local.state(step), (state, local.state(step))
            if step in kill_before:
                inputs.kill_one(chance.randrange(now))
        if hasattr(local, "accounting"):
            assert served.accounting(steps) == local.accounting(steps)
            return f"{served.accounting(steps)}"
        return "no broken records"
    finally:
        inputs.close()


def main(folder, hosts, kinds, steps, kills):
    from pathlib import Path

    hosts, _, later = hosts.partition("-")
    hosts, later = int(hosts), int(later or 0)
    addresses = [f"localhost:{port}" for port in free_ports(hosts)]
    runtimes = [
        subprocess.Popen(
            [sys.executable, "-c", _RUNTIME, str(i), ",".join(addresses)], stdout=subprocess.PIPE, text=True, cwd="/"
        )
        for i in range(hosts)
    ]
    try:
        for runtime in runtimes:
            assert runtime.stdout.readline() == "up\n"
        tf.config.experimental_connect_to_cluster(tf.train.ClusterSpec({"worker": addresses}), job_name="coordinator")
        chance = random.Random(0)
        for kind in kinds.split(","):
            started = time.monotonic()
            accounted = compare(Path(folder), kind, hosts, later, int(steps), int(kills), chance)
            print(
                f"{kind}: {steps} steps equal, {kills} kills, {time.monotonic() - started:.0f} s; {accounted}",
                flush=True,
            )
    finally:
        for runtime in runtimes:
            runtime.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
