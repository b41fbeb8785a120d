"""Requests of the same signature run as one batch, and a refused picture fails its own request alone.

While every thread is busy, requests wait in a queue; a thread that becomes free takes all that fit together. So batches
grow with the load, and a lone request never waits for company unless `seconds` asks for it.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import functools
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from siglip_tf.serve.errors import RequestError
from siglip_tf.serve.signature import Arrays, Signature

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class _Part:
    """Rows of one request that fit into a batch."""

    signature: Signature
    arrays: Arrays
    rows: int
    arrived: float
    answer: asyncio.Future


class Batcher:
    """One queue and one pool of threads for every signature of a server. Use it from one event loop.

    Args:
        sizes: batch sizes, ascending. A batch is padded to the next one; the last one is the largest.
        seconds: how long an idle thread waits for a batch to fill.
        queue_rows: rows that may wait.
        threads: batches that run at the same time.
        observe: called with the signature and the rows of each batch, padding left out.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        seconds: float,
        queue_rows: int,
        threads: int,
        observe: Callable[[Signature, int], Any] = lambda signature, rows: None,
    ):
        self._sizes = tuple(sizes)
        self._seconds = seconds
        self._queue_rows = queue_rows
        self._observe = observe
        self._idle = threads
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="batch")
        self._queues: dict[Hashable, collections.deque[_Part]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.waiting_rows = 0

    async def run(self, signature: Signature, arrays: Arrays) -> Arrays:
        """The outputs for one request's checked inputs.

        Raises:
            RequestError: the queue is full, or the model refuses the inputs.
        """
        rows = signature.rows(arrays)
        if self.waiting_rows + rows > self._queue_rows:
            raise RequestError(
                "RESOURCE_EXHAUSTED",
                f"The queue is full: {self.waiting_rows:,} of {self._queue_rows:,} rows wait. Try again later.",
            )
        loop = asyncio.get_running_loop()
        now = loop.time()
        parts = [_Part(signature, a, n, now, loop.create_future()) for a, n in self._split(signature, arrays, rows)]
        for part in parts:
            self._queues.setdefault(self._key(part), collections.deque()).append(part)
            self.waiting_rows += part.rows
        self._dispatch()
        try:
            answers = await asyncio.gather(*(part.answer for part in parts))
        except BaseException:
            for part in parts:
                part.answer.cancel()  # what still waits is dropped when its turn comes
            raise
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def close(self) -> None:
        """Ends the threads once they are idle."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _split(self, signature: Signature, arrays: Arrays, rows: int) -> list[tuple[Arrays, int]]:
        most = self._sizes[-1]
        if signature.merged is None or rows <= most:
            return [(arrays, rows)]
        merged = arrays[signature.merged]
        pieces = [merged[start : start + most] for start in range(0, rows, most)]
        return [(arrays | {signature.merged: piece}, len(piece)) for piece in pieces]

    def _key(self, part: _Part) -> Hashable:
        # A part without rows has nothing to pad a batch with, so it runs alone as well.
        return part if part.signature.merged is None or not part.rows else part.signature.batch_key(part.arrays)

    def _dispatch(self) -> None:
        """Gives idle threads what is ready."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle and self._queues:
            loop = asyncio.get_running_loop()
            ready = [(queue[0].arrived, key) for key, queue in self._queues.items() if self._ready(queue, loop.time())]
            if not ready:
                oldest = min(queue[0].arrived for queue in self._queues.values())
                self._timer = loop.call_at(oldest + self._seconds, self._dispatch)
                return
            parts = self._take(min(ready, key=lambda pair: pair[0])[1])
            if parts:
                self._idle -= 1
                running = loop.run_in_executor(self._pool, self._execute, parts)
                running.add_done_callback(functools.partial(self._finish, parts))

    def _ready(self, queue: collections.deque[_Part], now: float) -> bool:
        # The clock of a timer may be a little early; without the margin it would be set again and again.
        return now - queue[0].arrived >= self._seconds - 1e-4 or sum(part.rows for part in queue) >= self._sizes[-1]

    def _take(self, key: Hashable) -> list[_Part]:
        queue, rows = self._queues[key], 0
        parts: list[_Part] = []
        while queue and (not parts or rows + queue[0].rows <= self._sizes[-1]):
            part = queue.popleft()
            self.waiting_rows -= part.rows
            if not part.answer.done():  # its client may have gone
                parts.append(part)
                rows += part.rows
        if not queue:
            del self._queues[key]
        return parts

    def _finish(self, parts: list[_Part], running: asyncio.Future) -> None:
        self._idle += 1
        if running.cancelled() or (fault := running.exception()) is not None:
            if not running.cancelled():
                _LOG.error("A batch failed.", exc_info=fault)
            answers = [RequestError("INTERNAL", "The server failed to run this request.")] * len(parts)
        else:
            answers = running.result()
        for part, answer in zip(parts, answers, strict=True):
            if part.answer.done():
                continue
            if isinstance(answer, RequestError):
                part.answer.set_exception(answer)
            else:
                part.answer.set_result(answer)
        self._dispatch()

    def _execute(self, parts: list[_Part]) -> list[Arrays | RequestError]:
        """Answers in the order of the parts; runs in a thread of the pool."""
        signature = parts[0].signature
        try:
            return self._merged(signature, parts)
        except (tf.errors.OpError, RequestError) as error:
            if len(parts) == 1:
                return [self._explained(signature, parts[0].arrays, error)]
        # One of them is refused. Halves find it in few runs, and most of a refused run never reaches a tower.
        half = len(parts) // 2
        return self._execute(parts[:half]) + self._execute(parts[half:])

    def _merged(self, signature: Signature, parts: list[_Part]) -> list[Arrays | RequestError]:
        rows = sum(part.rows for part in parts)
        self._observe(signature, rows)
        if signature.merged is None or not rows:
            return [signature.run(parts[0].arrays)]
        padding = next(size for size in self._sizes if size >= rows) - rows
        values = [part.arrays[signature.merged] for part in parts]
        batch = np.concatenate([*values, np.repeat(values[0][:1], padding, axis=0)])
        outputs = signature.run(parts[0].arrays | {signature.merged: batch})
        ends = np.cumsum([part.rows for part in parts])
        return [
            {name: value[end - part.rows : end] for name, value in outputs.items()}
            for part, end in zip(parts, ends, strict=True)
        ]

    @staticmethod
    def _explained(signature: Signature, arrays: Arrays, error: Exception) -> RequestError:
        try:
            explained = signature.explained(arrays, error)
        except tf.errors.OpError as again:
            explained = RequestError("INTERNAL", f"Signature {signature.name} failed: {again.message[:200]}")
        if explained.code == "INTERNAL":
            _LOG.error("Signature %s failed.", signature.name, exc_info=error)
        return explained
