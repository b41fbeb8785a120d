"""`python -m tools.serve` as a child process on this machine, for benchmarks and tests."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from ..packages import TOOLS


class ServerProcess:
    """A running server: its ports, its memory, and signals to it.

    Args:
        base: folder of an export.
        arguments: more of the command line.
        rest_port: 0 for any free one.
        grpc_port: 0 for any free one.

    Raises:
        RuntimeError: it ended before it served.
    """

    def __init__(self, base: pathlib.Path, *arguments: str, rest_port: int = 0, grpc_port: int = 0):
        started = time.perf_counter()
        ports = ["--rest-port", str(rest_port), "--grpc-port", str(grpc_port)]
        command = [sys.executable, "-m", f"{TOOLS}.serve", f"model={base}", *ports, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.rest_port = self.grpc_port = 0
        for line in self.process.stdout:
            if found := re.search(r"://[^/]*:(\d+)/v1", line):
                self.rest_port = int(found[1])
            if found := re.search(r"gRPC on .*:(\d+)\.", line):
                self.grpc_port = int(found[1])
                break
        else:
            self.stop()
            raise RuntimeError(f"The server did not start:\n{''.join(self.log[-20:])}")
        self.seconds_to_start = time.perf_counter() - started

    @property
    def url(self) -> str:
        """Address of the model's REST."""
        return f"http://127.0.0.1:{self.rest_port}/v1/models/model"

    def resident_bytes(self) -> int:
        """Memory in use."""
        text = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(60)
        self.process.stdout.close()
        return status

    def _read_log(self) -> None:
        with self.process.stderr as lines:
            self.log.extend(lines)


@contextlib.contextmanager
def serving(base: pathlib.Path, *arguments: str) -> Iterator[ServerProcess]:
    """A server that ends with the block."""
    server = ServerProcess(base, *arguments)
    try:
        yield server
    finally:
        server.stop()
