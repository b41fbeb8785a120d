"""The command of an input process, and a recipe that is fed by some."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools import tpu_input

ROOT = Path(__file__).parents[2]


def arguments(index=None, count=None):
    return argparse.Namespace(index=index, count=count)


def test_the_share_is_that_of_the_command_line_or_of_the_hosts_environment():
    host = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4"}
    assert tpu_input.share(arguments(), host) == (2, 4)
    assert tpu_input.share(arguments(1, 8), host) == (1, 8)
    assert tpu_input.share(arguments(0, 1), {}) == (0, 1)
    with pytest.raises(ValueError, match="--index and --count"):
        tpu_input.share(arguments(0), {})


def test_a_wrong_share_or_recipe_is_an_error_and_a_status(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_LOAD_LIBRARY", "1")  # put back afterwards
    assert tpu_input.main(["nothing", "--index", "0", "--count", "1"]) == 2
    assert "Expected a recipe among" in capsys.readouterr().err


def started(folder, index, port, log):
    command = [sys.executable, "-m", "tools.tpu_input", "siglip", "--synthetic", "--run", str(folder)]
    command += ["--index", str(index), "--count", "2", "--port", str(port)]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def train(folder, ports, *more):
    command = [sys.executable, "-m", "recipes.siglip", "--synthetic", "--run", str(folder)]
    command += ["--inputs", ",".join(f"localhost:{port}" for port in ports), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_stalled_input_process_ends_the_step_and_the_run_resumes(tmp_path, number):
    from tests.data.service.pod import free_ports

    ports, folder = free_ports(2), tmp_path / "run"
    with open(tmp_path / "log", "w") as log:
        inputs = [started(folder, i, port, log) for i, port in enumerate(ports)]
        try:
            settings = ["--set", "duration=400 steps", "--set", "checkpoint_every=10"]
            running = train(folder, ports, *settings)
            while not list(folder.glob("checkpoints/*/*.done")) and not list(folder.glob("checkpoints/*")):
                assert running.poll() is None, running.stdout.read()
                time.sleep(0.5)
            inputs[1].send_signal(number)
            at = time.monotonic()
            text = running.communicate(timeout=300)[0]
            assert time.monotonic() - at < 60
            assert running.returncode == 3
            assert f"The input process at localhost:{ports[1]} has not answered" in text
            assert "The same command continues." in text
            inputs[1].kill()
            inputs[1].wait()
            inputs[1] = started(folder, 1, ports[1], log)
            again = train(folder, ports, *settings, "--until", "60")
            text = again.communicate(timeout=600)[0]
            assert again.returncode == 0 and "Resumed at step" in text, text
        finally:
            for process in inputs:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
