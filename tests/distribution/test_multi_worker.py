"""Worker processes on loopback: stock `fit` and `evaluate` equal one device, and a lost worker ends the others."""

import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from tests.distribution import settings
from tests.models import small


def start(tmp_path, workers, *options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = min(probe.getsockname()[1], 60_000)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    command = [sys.executable, "-m", "tests.distribution.worker"]
    processes = []
    for rank in range(workers):
        arguments = [str(rank), str(workers), str(port), str(tmp_path / f"{rank}.npz"), *options]
        with (tmp_path / f"{rank}.out").open("w") as out, (tmp_path / f"{rank}.err").open("w") as err:
            processes.append(subprocess.Popen([*command, *arguments], env=environment, stdout=out, stderr=err))
    return processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "optimizer"),
    [(2, "adamw"), (2, "adafactor"), (3, "adamw"), (3, "lion"), (3, "adafactor")],
)
def test_six_steps_equal_one_device(tmp_path, workers, optimizer):
    processes = start(tmp_path, workers, "--optimizer", optimizer)
    keras.utils.set_random_seed(1)
    model = small.model()
    model.compile(settings.optimizer(optimizer))
    data = small.dataset(6 * workers, 6)
    logs = model.fit(data, verbose=0).history
    evaluated = model.evaluate(data, verbose=0, return_dict=True)["loss"]
    for rank, process in enumerate(processes):
        assert process.wait(600) == 0, (tmp_path / f"{rank}.err").read_text()[-3000:]
        found = np.load(tmp_path / f"{rank}.npz")
        for i, weight in enumerate(model.trainable_variables):
            np.testing.assert_allclose(found[f"weight_{i}"], weight.numpy(), rtol=0, atol=1e-6)
        for name, values in logs.items():
            np.testing.assert_allclose(found[f"log_{name}"], values, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(found["evaluated"], evaluated, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stalled"])
def test_a_lost_worker_ends_the_others_within_a_minute_by_name(tmp_path, how):
    processes = start(tmp_path, 3, "--steps", "20000")
    try:
        wait_for(lambda: all("step 5\n" in (tmp_path / f"{r}.out").read_text() for r in range(3)), 600)
        processes[1].send_signal(how)
        lost = time.monotonic()
        for rank in (0, 2):
            assert processes[rank].wait(75) != 0
        assert time.monotonic() - lost < 75  # a minute, and the time a busy machine takes to write an error
        for rank in (0, 2):
            assert "worker/replica:0/task:1" in (tmp_path / f"{rank}.err").read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the workers did not get going"
        time.sleep(0.5)
