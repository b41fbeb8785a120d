"""Reads and checks TF_CONFIG before any server starts: the workers' addresses, and which worker this process is."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import socket
from typing import Any

import tensorflow as tf

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:3333", "host1:3333"]}, "task": {"type": "worker", "index": 0}}, the same on every '
    "machine except for the index"
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes that train together, and this process's place among them.

    Attributes:
        tasks: the addresses "host:port" of all processes that train, by role. The chief comes first.
        role: the role of this process, "chief" or "worker".
        index: the index of this process within its role.
    """

    tasks: dict[str, list[str]]
    role: str
    index: int

    @property
    def addresses(self) -> list[str]:
        """The addresses of all processes, in the order of their ranks."""
        return [*self.tasks.get("chief", []), *self.tasks.get("worker", [])]

    @property
    def rank(self) -> int:
        """This process's place in [0, number of processes). The chief is 0, and workers follow."""
        return self.index + (len(self.tasks.get("chief", [])) if self.role == "worker" else 0)

    def resolver(self) -> tf.distribute.cluster_resolver.ClusterResolver:
        """Returns the cluster resolver for `MultiWorkerMirroredStrategy`."""
        return tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(self.tasks), task_type=self.role, task_id=self.index, rpc_layer="grpc"
        )


def read_tf_config(text: str | None) -> Cluster | None:
    """Returns the cluster of `TF_CONFIG`, or None if it is unset or empty or names no cluster.

    An evaluator in the cluster is left out, because it takes no part in training.

    Raises:
        ValueError: the configuration cannot train: the JSON is malformed or not an object, the task is missing or
            unknown, an index is out of range, an address is invalid or occurs twice, the cluster has a role "ps" or
            "master", or this process is an evaluator.
    """
    if text is None or not text.strip():
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"JSON such as {_EXAMPLE}", f"{_short(text)} ({error})") from error
    if not isinstance(config, dict):
        raise _wrong(f"a JSON object such as {_EXAMPLE}", _short(text))
    if not config.get("cluster"):
        task = config.get("task")
        if isinstance(task, dict) and task.get("index") not in (None, 0, "0"):
            raise _wrong('a "cluster" that lists all workers', f"the task {json.dumps(task)} without one")
        return None
    tasks = _tasks(config["cluster"])
    role, index = _task(config.get("task"), config["cluster"])
    return Cluster(tasks, role, index)


def check_own_port(cluster: Cluster) -> None:
    """Raises a ValueError if another process on this machine already listens on this process's port."""
    address = cluster.addresses[cluster.rank]
    port = int(address.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # The port of a run that just ended is free.
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise _wrong(
                f"a free port of this machine for {cluster.role} {cluster.index}",
                f"{address}, which another process uses: {str(error.strerror).lower()}. Two processes may not have the "
                "same index; end the other one or name another port",
            ) from error


def rank_in_cluster(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> int:
    """Returns this process's place among all processes that train. TensorFlow's `task_id` counts within a role."""
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", ()))
    return resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)


def _tasks(cluster: Any) -> dict[str, list[str]]:
    if not isinstance(cluster, dict):
        raise _wrong('"cluster" as an object of roles and addresses', json.dumps(cluster))
    if "ps" in cluster:
        raise _wrong(
            'a cluster of "worker" (and at most one "chief"): training is synchronous and has no parameter servers',
            f'the role "ps" with {json.dumps(cluster["ps"])}',
        )
    unknown = sorted(set(cluster) - {"chief", "worker", "evaluator"})
    if unknown:
        raise _wrong('the roles "chief" and "worker"', f'the role "{unknown[0]}"')
    seen: dict[str, str] = {}
    for role, addresses in cluster.items():
        if not isinstance(addresses, list):
            raise _wrong(f'"{role}" as a list of addresses "host:port"', json.dumps(addresses))
        for index, address in enumerate(addresses):
            found = re.fullmatch(r"(\S+):(\d{1,5})", address) if isinstance(address, str) else None
            if not found or not 1 <= int(found[2]) <= 65535:
                raise _wrong(f'an address "host:port" for {role} {index}', json.dumps(address))
            if address in seen:
                raise _wrong("a different address for every task", f"{address} for {seen[address]} and {role} {index}")
            seen[address] = f"{role} {index}"
    if len(cluster.get("chief", [])) > 1:
        raise _wrong('at most one "chief"', f"{len(cluster['chief'])}: {json.dumps(cluster['chief'])}")
    tasks = {role: cluster[role] for role in ("chief", "worker") if cluster.get(role)}
    if not tasks:
        raise _wrong('a cluster of at least one "worker"', json.dumps(cluster))
    return tasks


def _task(task: Any, cluster: dict[str, list[str]]) -> tuple[str, int]:
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise _wrong('a "task" such as {"type": "worker", "index": 0}, this process\'s own', json.dumps(task))
    role, index = task["type"], task["index"]
    if role == "evaluator":
        raise _wrong(
            'a task of type "chief" or "worker": an evaluator would train a run of its own. Evaluate the checkpoints '
            "of the run instead (tools.evaluate)",
            'the type "evaluator"',
        )
    if role not in ("chief", "worker") or not cluster.get(role):
        raise _wrong(
            f"a task whose type is in the cluster, {sorted(r for r in cluster if cluster[r])}", json.dumps(role)
        )
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(cluster[role]):
        raise _wrong(f"an index of {role} from 0 to {len(cluster[role]) - 1}", json.dumps(task["index"]))
    return role, index


def _wrong(expected: str, received: str) -> ValueError:
    return ValueError(f"TF_CONFIG: Expected {expected}. Received: {received}.")


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
