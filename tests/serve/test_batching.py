"""Requests share batches, keep their own answers and errors, and leave the queue when their client goes."""

import asyncio
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.serve.batching import Batcher
from siglip_tf.serve.errors import RequestError
from siglip_tf.serve.signature import Signature


class Model:
    """Doubles numbers, refuses 13, and notes the size of each run; `gate` holds it."""

    def __init__(self, seconds=0.0):
        self.runs, self.gate, self.seconds = [], threading.Event(), seconds
        self.gate.set()
        spec = tf.TensorSpec([None], tf.float32, name="x")
        self.structured_input_signature = ((), {"x": spec})
        self.structured_outputs = {"y": spec}
        self.wrong = False

    def __call__(self, x):
        self.gate.wait(10)
        time.sleep(self.seconds)
        values = x.numpy()
        self.runs.append(values.tolist())
        if 13 in values:
            raise tf.errors.InvalidArgumentError(None, None, "{{node x}} Unlucky.")
        return {"y": tf.constant(2 * values[:1] if self.wrong else 2 * values)}


def batcher(**settings):
    return Batcher(**{"sizes": (1, 2, 4, 8), "seconds": 0.0, "queue_rows": 64, "threads": 1} | settings)


def values(*numbers):
    return {"x": np.array(numbers, np.float32)}


async def held(model, queue, signature, requests):
    """Runs one request that holds the only thread, and meanwhile queues the others; returns their results."""
    model.gate.clear()
    first = asyncio.create_task(queue.run(signature, values(0)))
    await asyncio.sleep(0.05)
    tasks = [asyncio.create_task(queue.run(signature, request)) for request in requests]
    await asyncio.sleep(0.05)
    model.gate.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_waiting_requests_become_padded_batches():
    model = Model()
    signature, queue = Signature("m", model), batcher()
    requests = [values(1), values(2, 3), values(4), values(), values(*range(20, 31))]
    answers = asyncio.run(held(model, queue, signature, requests))
    for request, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(answer["y"], 2 * request["x"])
    # The long request is split; a part of it that fits joins the others; every size is an allowed one.
    assert all(len(run) in (0, 1, 2, 4, 8) for run in model.runs)
    assert len(model.runs) <= 5
    assert model.runs[1][:4] == [1, 2, 3, 4]


def test_one_bad_request_fails_alone():
    model = Model()
    signature, queue = Signature("m", model), batcher()
    requests = [values(1), values(2, 13, 3), values(4), values(5)]
    answers = asyncio.run(held(model, queue, signature, requests))
    assert isinstance(answers[1], RequestError)
    assert (answers[1].code, answers[1].message) == ("INVALID_ARGUMENT", "x[1]: Unlucky.")
    for i in (0, 2, 3):
        np.testing.assert_array_equal(answers[i]["y"], 2 * requests[i]["x"])


def test_a_full_queue_refuses_at_once_and_gone_clients_leave_it():
    model = Model()
    signature, queue = Signature("m", model), batcher(queue_rows=3)

    async def scenario():
        model.gate.clear()
        first = asyncio.create_task(queue.run(signature, values(0)))
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(queue.run(signature, values(i))) for i in (1, 2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="The queue is full: 3 of 3") as caught:
            await queue.run(signature, values(4))
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        waiting[1].cancel()
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, *waiting, return_exceptions=True)
        assert queue.waiting_rows == 0
        assert [value for run in model.runs for value in run if value == 2] == []

    asyncio.run(scenario())


def test_a_wait_fills_batches_and_ends():
    model = Model()
    signature, queue = Signature("m", model), batcher(seconds=0.15)

    async def scenario():
        started = time.monotonic()
        first = asyncio.create_task(queue.run(signature, values(1)))
        await asyncio.sleep(0.03)
        await asyncio.gather(first, queue.run(signature, values(2)))
        assert 0.14 < time.monotonic() - started < 2
        assert model.runs == [[1, 2]]
        started = time.monotonic()
        await queue.run(signature, values(*range(8)))  # full: nothing to wait for
        assert time.monotonic() - started < 0.14

    asyncio.run(scenario())


def test_an_output_of_another_length_is_never_handed_out():
    model = Model()
    model.wrong = True
    signature, queue = Signature("m", model), batcher()
    with pytest.raises(RequestError, match="1 rows for 2 rows") as caught:
        asyncio.run(queue.run(signature, values(1, 2)))
    assert caught.value.code == "INTERNAL"


def test_requests_against_other_texts_are_not_merged(tiny_base):
    signature = Signature("score", tf.saved_model.load(str(tiny_base / "1")).signatures["score"])
    assert signature.merged == "images"
    pictures = np.array([b"a"], object)

    def key(*texts):
        return signature.batch_key({"images": pictures, "texts": np.array(texts, object)})

    assert key("a", "b") == key("a", "b") != key("b", "a")
    assert key("ab") != key("a", "b")
