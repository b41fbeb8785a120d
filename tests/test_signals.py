"""Signals end a process although its main thread waits inside TensorFlow, where Python runs no handler."""

import os
import signal
import threading

import pytest
import tensorflow as tf

from siglip_tf import signals
from siglip_tf.signals import Interruption, interruptible


class Wait:
    """A wait inside TensorFlow that only `end` ends, where a real process would be gone."""

    def __init__(self):
        self.codes = []
        self.queue = tf.queue.FIFOQueue(2, tf.int32)

    def end(self, code):
        self.codes.append(code)
        self.queue.enqueue(1)

    def __call__(self, *numbers):
        timers = [threading.Timer(0.1 + 0.2 * i, os.kill, (os.getpid(), number)) for i, number in enumerate(numbers)]
        for timer in timers:
            timer.start()
        try:
            self.queue.dequeue()
        finally:
            for timer in timers:
                timer.join()


@pytest.fixture(autouse=True)
def prompt(monkeypatch):
    monkeypatch.setattr(signals, "_PROMPT", 0.3)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    yield
    signal.signal(signal.SIGINT, before)


def test_a_wait_that_has_nothing_to_save_ends_by_the_first_signal(capfd):
    before = signal.getsignal(signal.SIGTERM)
    wait = Wait()
    interruption = Interruption(grace=lambda: 0.0, lost=lambda: "Nothing is lost.", end=wait.end)
    interruption.install()
    with pytest.raises(SystemExit) as stopped:  # what the handler does when the main thread comes back after all
        wait(signal.SIGTERM)
    interruption.remove()
    assert wait.codes == [143] and stopped.value.code == 143
    assert "Ended by a signal (SIGTERM, and no step ended in time). Nothing is lost." in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before and signal.set_wakeup_fd(-1) == -1


def test_a_step_gets_its_grace_and_a_second_signal_does_not_wait_for_it(capfd):
    for grace, numbers in ((0.6, [signal.SIGINT]), (1000.0, [signal.SIGINT, signal.SIGINT])):
        wait = Wait()
        interruption = Interruption(grace=lambda grace=grace: grace, end=wait.end)
        interruption.install()
        wait(*numbers)
        interruption.remove()
        assert wait.codes == [130] and interruption.received == signal.SIGINT
        assert "SIGINT: training stops after this step and saves." in capfd.readouterr().err


def test_a_loop_that_leaves_in_time_is_not_ended():
    codes = []
    interruption = Interruption(grace=lambda: 0.2, end=codes.append)
    interruption.install()
    signal.raise_signal(signal.SIGTERM)
    assert interruption.received == signal.SIGTERM
    interruption.remove()
    assert not [thread for thread in threading.enumerate() if thread.name == "signals"] and codes == []


def test_ctrl_c_ends_a_command_wherever_it_waits(capfd):
    wait = Wait()
    with pytest.raises(SystemExit) as stopped, interruptible(end=wait.end):
        wait(signal.SIGINT)
    assert wait.codes == [130] and stopped.value.code == 130
    with pytest.raises(SystemExit) as stopped, interruptible(end=wait.end):
        signal.raise_signal(signal.SIGINT)
    assert wait.codes == [130] and stopped.value.code == 130
    assert "Interrupted." in capfd.readouterr().err
