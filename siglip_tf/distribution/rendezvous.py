"""Waits for all workers of TF_CONFIG before TensorFlow starts, and names workers that are missing or duplicated.

TensorFlow waits for missing workers for an hour, without a message and without reacting to signals, and two processes
with the same index confuse it. So each process first sends a hello to the first process, on the address that TensorFlow
will use. When all have connected, the first process answers "go", all close these connections, and TensorFlow starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import sys
import time

from siglip_tf.distribution.cluster import Cluster

_FIRST_WORD_SECONDS = 20.0
_LIMIT_SECONDS = 600.0
_POLL_SECONDS = 0.2
_LONGEST_LINE = 4096


def meet(cluster: Cluster, limit: float = _LIMIT_SECONDS) -> None:
    """Returns when all processes of `cluster` have called it.

    While it waits, it prints to stderr which processes are missing. Signals end the wait like any Python code.

    Args:
        cluster: the processes that train together.
        limit: seconds to wait.

    Raises:
        ValueError: two processes have the same index, or their TF_CONFIG differ.
        TimeoutError: a process has not called it within `limit`; the message names the missing addresses.
    """
    wait = _Wait(limit)
    if cluster.rank == 0:
        _gather(cluster, wait)
    else:
        _say_hello(cluster, wait)


class _Wait:
    """Prints, from time to time, which processes are missing, and ends the wait at its limit."""

    def __init__(self, limit):
        self._start, self._limit, self._next = time.monotonic(), limit, _FIRST_WORD_SECONDS

    def check(self, missing):
        waited = time.monotonic() - self._start
        if waited < min(self._next, self._limit):
            return
        line = f"TF_CONFIG: waiting for {', '.join(missing)} for {waited:.0f} s"
        if waited >= self._limit:
            raise TimeoutError(f"{line}; gave up. Start every process with the same TF_CONFIG except for its own task.")
        print(line, file=sys.stderr, flush=True)
        self._next = waited + 60


def _gather(cluster, wait):
    names = dict(enumerate(_names(cluster)))
    guests: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as connections:
        server = connections.enter_context(_listen(cluster))
        server.settimeout(_POLL_SECONDS)
        while len(guests) < len(names) - 1:
            guests = {rank: guest for rank, guest in guests.items() if _is_open(guest)}
            wait.check([name for rank, name in names.items() if rank and rank not in guests])
            try:
                guest, _ = server.accept()
            except TimeoutError:
                continue
            connections.enter_context(guest)
            try:
                rank = _receive(guest, cluster)
                if rank in guests or (rank is not None and not 0 < rank < len(names)):
                    raise ValueError(
                        "TF_CONFIG: Expected one process for each task. Received: two that are "
                        f"{names.get(rank, rank)}. Give every process its own index."
                    )
            except ValueError as error:
                for each in (*guests.values(), guest):
                    _send(each, {"error": str(error)})
                raise
            if rank is not None:
                guests[rank] = guest
        for guest in guests.values():
            _send(guest, {"go": True})


def _receive(guest, cluster):
    """Returns the rank of a guest, or None for a stranger. Raises a ValueError if the guest's TF_CONFIG differs."""
    guest.settimeout(5.0)
    hello = _read(guest)
    if not isinstance(hello, dict) or not isinstance(hello.get("rank"), int):
        return None
    if hello.get("cluster") != _fingerprint(cluster):
        raise ValueError(
            f"TF_CONFIG: Expected the same cluster on every process. Received: {hello.get('tasks')} from rank "
            f"{hello['rank']}, {json.dumps(cluster.tasks)} here."
        )
    return hello["rank"]


def _say_hello(cluster, wait):
    first, name = cluster.addresses[0], _names(cluster)[0]
    host, _, port = first.rpartition(":")
    hello = {"rank": cluster.rank, "cluster": _fingerprint(cluster), "tasks": json.dumps(cluster.tasks)[:1000]}
    while True:
        wait.check([name])
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0) as connection:
                _send(connection, hello)
                connection.settimeout(_POLL_SECONDS)
                answer = None
                while answer is None:
                    wait.check([f"others, as {name} does"])
                    try:
                        answer = _read(connection)
                    except TimeoutError:
                        continue
        except OSError as error:
            if isinstance(error, TimeoutError) and "TF_CONFIG" in str(error):
                raise
            answer = None
        if isinstance(answer, dict) and answer.get("go"):
            return
        if isinstance(answer, dict) and answer.get("error"):
            raise ValueError(answer["error"])
        time.sleep(_POLL_SECONDS)  # The first process has not started yet, or it ended while it waited.


def _names(cluster):
    return [f"{role} {i} ({a})" for role in ("chief", "worker") for i, a in enumerate(cluster.tasks.get(role, []))]


def _fingerprint(cluster):
    return hashlib.sha256(json.dumps(cluster.tasks, sort_keys=True).encode()).hexdigest()


def _listen(cluster):
    address = ("", int(cluster.addresses[0].rpartition(":")[2]))
    if socket.has_dualstack_ipv6():
        return socket.create_server(address, family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    return socket.create_server(address, backlog=128)


def _is_open(guest):
    """Says whether the other side still waits. It sends nothing after its hello, so an empty read means it closed."""
    guest.setblocking(False)
    try:
        return bool(guest.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _send(connection, message):
    try:
        connection.setblocking(True)
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # The other process has ended; the wait will name it as missing.


def _read(connection):
    """Reads one line of JSON. Returns False if the other side closed or sent something else; may raise TimeoutError."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
        part = connection.recv(_LONGEST_LINE)
        if not part:
            return False
        line += part
    try:
        return json.loads(line)
    except ValueError:
        return False
