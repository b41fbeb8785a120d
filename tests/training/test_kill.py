"""SIGKILL and SIGTERM to a training process: the run that goes on ends with the same bits."""

import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from siglip_tf.training import Resume, read_metrics, train
from tests.training.small_run import BATCH, STEPS, batches, make_model, weights

ROOT = pathlib.Path(__file__).parents[2]


def start(directory, *arguments, environment=None):
    command = [sys.executable, "-m", "tests.training.small_run", str(directory), *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=1800)
    return process.returncode, output


def final(path):
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


def assert_same_bits(mine, theirs):
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_process_killed_while_it_writes_a_checkpoint_goes_on(tmp_path):
    code, output = finish(start(tmp_path / "killed", "--sequential", "--die-writing", 20))
    assert code == -signal.SIGKILL, output
    left = sorted(p.name for p in (tmp_path / "killed" / "checkpoints").iterdir())
    assert left == ["step_000000005", "step_000000010", "step_000000015", "step_000000020.writing"]

    code, output = finish(start(tmp_path / "killed", "--sequential", "--final", tmp_path / "killed.npz"))
    assert code == 0, output
    assert "Resumed at step 15" in output
    whole = make_model()
    resume = Resume(str(tmp_path / "whole"), every=5)
    train(whole, batches, steps=STEPS, global_batch_size=BATCH, resume=resume, progress=False)
    assert_same_bits(final(tmp_path / "killed.npz"), weights(whole))


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--asynchronous",)], ids=["synchronous", "asynchronous"])
def test_ten_kills_at_random_moments(tmp_path, options):
    """Most of the time goes into writing checkpoints here, so most kills fall into it."""
    steps = ("--steps", 120, "--every", 1, "--vocab-size", 60_000, *options)
    code, output = finish(start(tmp_path / "whole", *steps, "--final", tmp_path / "whole.npz"))
    assert code == 0, output

    aim, kills, torn = random.Random(11), 0, 0
    while kills < 10:
        ready = tmp_path / f"ready_{kills}"
        process = start(tmp_path / "killed", *steps, "--ready", ready)
        while not ready.exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        time.sleep(aim.uniform(0.0, 1.0))
        process.kill()
        code, output = finish(process)
        assert code == -signal.SIGKILL, output
        kills += 1
        names = [p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()]
        torn += any(not name.startswith("step_") or "." in name for name in names)
    code, output = finish(start(tmp_path / "killed", *steps, "--final", tmp_path / "killed.npz"))
    assert code == 0, output
    print(f"{torn} of {kills} kills fell into the writing or deleting of a checkpoint; {output.splitlines()[0]}")
    assert torn >= 1
    assert_same_bits(final(tmp_path / "killed.npz"), final(tmp_path / "whole.npz"))


@pytest.mark.slow
def test_ten_kills_in_a_run_with_evaluations(tmp_path):
    """The same bits, the same figures and the same best checkpoint as without a kill."""
    steps = ("--sequential", "--evaluate", "--steps", 150, "--every", 5)
    code, output = finish(start(tmp_path / "whole", *steps, "--final", tmp_path / "whole.npz"))
    assert code == 0, output
    aim = random.Random(7)
    resumed = []
    for _ in range(10):
        moment = ("--die-in", aim.randint(6, 18), aim.uniform(0.0, 0.2))
        code, output = finish(start(tmp_path / "killed", *steps, "--sleep", 0.02, *moment))
        assert code == -signal.SIGKILL, output
        resumed.append("Resumed at step" in output)
    assert resumed == [False] + 9 * [True]
    code, output = finish(start(tmp_path / "killed", *steps, "--final", tmp_path / "killed.npz"))
    assert code == 0, output
    print(output.splitlines()[0])
    assert_same_bits(final(tmp_path / "killed.npz"), final(tmp_path / "whole.npz"))
    found = []
    for name in ("whole", "killed"):
        best = json.loads((tmp_path / name / "best" / "best.json").read_text())
        (folder,) = (path for path in (tmp_path / name / "best").iterdir() if path.is_dir())
        assert folder.name == best["folder"]
        model = make_model()
        model.optimizer.build(model.trainable_variables)
        model.load_weights(folder / "model.weights.h5")
        lines = read_metrics(str(tmp_path / name / "metrics.jsonl"))
        figures = [(line["step"], line.get("loss"), line.get("weighed/score")) for line in lines]
        found.append((best, figures, [w.tobytes() for w in model.get_weights()]))
    assert found[0] == found[1]
    assert 0 < found[0][0]["step"] < 150


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_whose_data_gives_no_batch(tmp_path, number):
    process = start(tmp_path, "--sequential", "--stall")
    while "building the first step" not in (line := process.stdout.readline()):
        assert line, "ended before its first step"
    time.sleep(5)
    process.send_signal(number)
    begin = time.monotonic()
    code, output = finish(process)
    assert code == 128 + number, output
    assert time.monotonic() - begin < 15
    assert "No checkpoint was written; the same command continues from there." in output


@pytest.mark.slow
def test_two_processes_in_one_folder(tmp_path):
    first = start(tmp_path / "run", "--sequential", "--sleep", 600)
    while not (tmp_path / "run" / "owner.json").exists():
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    code, output = finish(start(tmp_path / "run", "--sequential"))
    assert code == 1 and f"is in use: process {first.pid} on {socket.gethostname()}" in output
    first.kill()
    finish(first)
    code, output = finish(start(tmp_path / "run", "--sequential"))
    assert code == 0 and f"from process {first.pid}" in output, output


@pytest.mark.slow
def test_sigterm_ends_a_process_with_its_state_saved(tmp_path):
    process = start(tmp_path, "--terminate-after", 12, "--every", 1000)
    code, output = finish(process)
    assert code == 128 + signal.SIGTERM, output
    assert "after step 12" in output
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_000000012"]


def cluster():
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("localhost", 0))
    workers = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    # With a chief, as TensorFlow's guide has it and managed services set it.
    roles = {"chief": workers[:1], "worker": workers[1:]}
    return [{"TF_CONFIG": json.dumps({"cluster": roles, "task": {"type": role, "index": 0}})} for role in roles]


def start_two(directory, *arguments, each=((), ())):
    return [
        start(directory, "--multi-worker", "--training-data", *arguments, *own, environment=environment)
        for environment, own in zip(cluster(), each, strict=True)
    ]


@pytest.mark.slow
def test_kills_in_a_run_of_two_workers(tmp_path):
    finals = [("--final", tmp_path / f"whole_{i}.npz") for i in range(2)]
    for process in start_two(tmp_path / "whole", each=finals):
        code, output = finish(process)
        assert code == 0, output

    for victim, how in ((1, ("--die-after", 13)), (0, ("--die-writing", 25))):
        each = [(), ()]
        each[victim] = how
        pair = start_two(tmp_path / "killed", each=each)
        code, output = finish(pair[victim])
        assert code == -signal.SIGKILL, output
        pair[1 - victim].kill()  # it waits in a collective for the one that is gone
        finish(pair[1 - victim])

    finals = [("--final", tmp_path / f"killed_{i}.npz") for i in range(2)]
    outputs = []
    for process in start_two(tmp_path / "killed", each=finals):
        code, output = finish(process)
        assert code == 0, output
        outputs.append(output)
    assert all("Resumed at step 20" in output for output in outputs)
    for i in range(2):
        assert_same_bits(final(tmp_path / f"killed_{i}.npz"), final(tmp_path / f"whole_{i}.npz"))
    assert_same_bits(final(tmp_path / "whole_0.npz"), final(tmp_path / "whole_1.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_of_two_workers_stops_both_after_the_same_step(tmp_path, signalled):
    each = [(), ()]
    each[signalled] = ("--terminate-after", 12)
    steps = []
    for process in start_two(tmp_path, "--every", 1000, each=each):
        code, output = finish(process)
        assert code == 128 + signal.SIGTERM, output
        steps.append(int(re.search(r"after step (\d+)", output)[1]))
    # The workers ask each other about once a second; how many steps that is depends on the machine.
    assert steps[0] == steps[1] >= 12
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"step_{steps[0]:09}"]
