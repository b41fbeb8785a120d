"""Ensures that only one process at a time trains in a run's folder.

Two processes in one folder would remove each other's half-written checkpoints. Therefore the owner keeps a mark in the
folder, `owner.json`, with its host, its process id, and the time of its last heartbeat. The mark of a process that has
ended does not lock the folder. On the same host, the end is noticed at once, even after SIGKILL. A mark of another host
is stale after two minutes without a heartbeat.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from siglip_tf.storage import read_file, remove, write_file

NAME = "owner.json"
HEARTBEAT = 20.0  # seconds between heartbeats
STALE = 120.0  # seconds without a heartbeat after which another host's mark is ignored


class RunFolderInUseError(RuntimeError):
    """Raised if another process trains in the folder."""


class Owner:
    """This process's mark in a run's folder.

    Args:
        directory: the run's folder, local or `gs://`.
        say: a function that receives a message about a stale mark.
        clock: a function that returns the seconds since the epoch.
    """

    def __init__(self, directory: str, say: Callable[[str], None] = print, clock: Callable[[], float] = time.time):
        self.path = f"{str(directory).rstrip('/')}/{NAME}"
        self.directory = str(directory)
        self._say = say
        self._clock = clock
        self._mark: dict[str, Any] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self) -> None:
        """Writes the mark, and updates its heartbeat in a thread until `release`.

        Raises:
            RunFolderInUseError: if the folder holds the mark of another process that is alive.
        """
        if self._thread is not None:
            return
        self._mark = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "started": process_start(os.getpid()),
            "boot": boot_id(),
            "heartbeat": self._clock(),
        }
        there = self._read()
        if self._is_mine(there):
            there = None  # the mark is from an earlier run of this process that ended with an exception
        if there is not None and (why := self._is_alive(there)):
            raise RunFolderInUseError(
                f"{self.directory} is in use: process {there['process']} on {there['host']} trains in it ({why}). "
                "Wait for it, stop it, or name another folder. If you are sure that it has ended, "
                f"delete {self.path}."
            )
        if there is not None:
            self._say(
                f"Took over {self.directory} from process {there['process']} on {there['host']}, which ended without "
                "removing its mark."
            )
        self._write()
        self._ended.clear()
        self._thread = threading.Thread(target=self._keep, name="owner", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Removes the mark."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(OSError, tf.errors.OpError):  # a mark that is left here becomes stale by itself
            if self._is_mine(self._read()):
                remove(self.path)

    def _is_alive(self, mark: dict[str, Any]) -> str:
        """Returns why the mark's process is considered alive, or "" if it has ended."""
        age = self._clock() - mark["heartbeat"]
        if mark["host"] == socket.gethostname() and mark["boot"] == boot_id():
            started = process_start(mark["process"])
            alive = started is not None and (mark["started"] is None or started == mark["started"])
            return "it is running" if alive else ""
        if age < STALE:
            return f"its last heartbeat was {max(0, age):.0f} s ago; a mark is stale after {STALE:.0f} s"
        return ""

    def _is_mine(self, mark: dict[str, Any] | None) -> bool:
        keys = ("host", "process", "started", "boot")
        return mark is not None and all(mark[key] == self._mark[key] for key in keys)

    def _keep(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            self._mark["heartbeat"] = self._clock()
            # If the disk is full or the store does not answer, the next heartbeat may succeed.
            with contextlib.suppress(OSError, tf.errors.OpError):
                self._write()

    def _write(self) -> None:
        write_file(self.path, json.dumps(self._mark) + "\n")

    def _read(self) -> dict[str, Any] | None:
        try:
            mark = json.loads(read_file(self.path))
            return {key: mark[key] for key in ("host", "process", "started", "boot", "heartbeat")}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None  # not a mark that this code writes


def process_start(process: int) -> int | None:
    """Returns when a process of this host started, in clock ticks since boot.

    The start time tells a process from a later one with the same process id.

    Returns:
        The start time, 0 if the system does not provide it, or None if there is no such process.
    """
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
    except OSError:
        return 0
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return 0


def boot_id() -> str:
    """Returns a name for this boot of this host and its process namespace.

    Containers on one host share the boot id but see different processes, so the namespace is part of the name.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
