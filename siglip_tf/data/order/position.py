"""The position of training in its data: the slots that each stream has used, and those skipped as broken records.

A position is (step, slots passed by each stream). Slots passed = pairs used + records skipped, and pairs used =
steps x pairs per step. So the position follows from the step count of the training loop, and batches that wait in a
prefetch buffer do not count.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from siglip_tf.data.order.bad_records import Cause, TooManyBadRecordsError

VERSION = 1
_ONE_KERNEL = (
    "Install a C compiler on every machine (`apt-get install gcc`), or begin the run with SIGLIP_TF_RESIZE=tensorflow "
    "in the environment of every worker."
)


@dataclasses.dataclass
class _Stream:
    start: int  # How many slots had been passed when this process started.
    frontier: int  # Every slot before it has arrived or has been skipped.
    ahead: set[int]  # Slots that arrived before an earlier slot did (unordered pipelines only).
    skipped: list[int]  # Slots from `start` on that were skipped, in ascending order.
    causes: list[str]  # The cause of each of them.
    has_arrived: bool = False  # Whether any slot has arrived.
    next_look: int = 0  # How many slots may be absent before `handed_out` examines them.

    def holds(self, slot: int) -> bool:
        """Says whether a slot was skipped."""
        at = bisect.bisect_left(self.skipped, slot)
        return at < len(self.skipped) and self.skipped[at] == slot

    def passed(self, used: int) -> int:
        """Returns the number of slots passed when `used` pairs have been used since the start."""
        end = self.start + used
        for slot in self.skipped:
            if slot >= end:
                break
            end += 1
        return end


class PositionTracker:
    """Tracks a worker's streams. It finds skipped slots as batches are made, and gives the position at any step.

    Args:
        diagnose: maps a stream and slots that did not arrive to the cause of each, or None if the record is sound.
        limit: the largest fraction of the passed slots that may be skipped (below 1), or how many (1 or more).
        ordered: whether slots arrive in order, so that a gap is certainly a broken record.

    Raises:
        ValueError: a negative limit.
    """

    # This many skips never exceed a fractional limit, because a few broken records at the start prove nothing.
    GRACE = 20
    # Up to this many skips are kept one by one. After that, skips before a requested position are kept as counts.
    KEPT = 100_000
    # In unordered pipelines, slots this far behind the newest are diagnosed.
    SLACK = 4096
    # While nothing arrives: how many slots must be absent before some are examined, and how many are examined.
    LOOK = 64
    EXAMINED = 64

    def __init__(
        self,
        diagnose: Callable[[int, list[int]], list[Cause | None]],
        limit: float,
        ordered: bool = True,
    ):
        if limit < 0:
            raise ValueError(f"bad_record_limit must not be negative. Received: {limit}")
        self._diagnose = diagnose
        self._limit = limit
        self._ordered = ordered
        self._streams: dict[int, _Stream] = {}
        self._base_skipped: Counter[str] = Counter()
        self._base_step = 0
        self._lock = threading.Lock()

    def start(self, step: int, passed: dict[int, int], skipped: dict[str, int]) -> None:
        """Starts at a position: `passed` slots of each stream, `skipped` records of each cause."""
        with self._lock:
            self._base_step = step
            self._base_skipped = Counter(skipped)
            self._streams = {stream: _Stream(slot, slot, set(), [], []) for stream, slot in passed.items()}

    def arrived(self, stream: int, slots: list[int]) -> None:
        """Records the slots of a batch, and diagnoses the slots that are missing between them.

        Raises:
            TooManyBadRecordsError: more records were skipped than the limit allows.
        """
        with self._lock:
            state = self._streams[stream]
            if self._ordered:
                missing = sorted(set(range(state.frontier, slots[-1] + 1)) - set(slots))
                self._skip(stream, missing)
                # A second iterator over the same data starts again from the first slot.
                state.frontier = max(state.frontier, slots[-1] + 1)
                state.has_arrived, state.next_look = True, 0
                return
            state.ahead.update(slot for slot in slots if slot >= state.frontier)
            state.has_arrived, state.next_look = True, 0
            self._advance(state)
            before = -1
            while before < state.frontier and state.ahead and max(state.ahead) - state.frontier > self.SLACK:
                before = state.frontier
                self._skip(stream, list(range(state.frontier, min(state.ahead))))
                self._advance(state)

    def finished(self, stream: int, end: int) -> None:
        """Ends a stream before slot `end`. Slots that have not arrived by now are broken."""
        with self._lock:
            state = self._streams[stream]
            self._skip(stream, sorted(set(range(state.frontier, end)) - state.ahead))
            state.frontier = end

    def handed_out(
        self,
        stream: int,
        decoded: int,
        examine: Callable[[list[int]], list[Cause | None]],
        waiting: int,
        records: int,
    ) -> None:
        """Checks the limit while no batch arrives.

        Args:
            stream: the stream's number.
            decoded: every slot before this one was decoded or found broken.
            examine: maps slots to the cause of each broken one, and None for each sound one.
            waiting: how many sound slots may wait for the rest of their batch.
            records: how many different records the data holds.

        Raises:
            TooManyBadRecordsError: more records are certainly broken than the limit allows.
        """
        with self._lock:
            state = self._streams[stream]
            late = bisect.bisect_left(state.skipped, state.frontier)
            absent = decoded - state.frontier - len(state.ahead) - (len(state.skipped) - late)
            # Nothing is known about the data before the first batch, so a few records are examined early.
            if absent < max(self.LOOK, state.next_look) + (waiting if state.has_arrived else 0):
                return
            state.next_look = 4 * absent
            gone = (
                slot
                for slot in range(state.frontier, min(decoded, state.frontier + records))
                if slot not in state.ahead and not state.holds(slot)
            )
            slots = list(itertools.islice(gone, self.EXAMINED))
            causes = Counter(cause.value for cause in examine(slots) if cause is not None)
            if causes:
                self._judge(causes, len(slots), absent, waiting, absent >= 2 * records and not state.has_arrived)

    def _judge(self, causes: Counter[str], examined: int, absent: int, waiting: int, twice: bool) -> None:
        """Raises an error if the examined slots prove too many bad records.

        Args:
            causes: the number of broken slots among the examined ones, by cause.
            examined: number of examined slots.
            absent: number of slots that did not arrive.
            waiting: how many sound slots may wait for the rest of their batch.
            twice: whether every record was tried twice.
        """
        skipped = sum(self._base_skipped.values()) + sum(len(s.skipped) for s in self._streams.values())
        passed = sum(state.frontier for state in self._streams.values())
        broken = causes.total()
        # A sample proves less than all records do, so it must exceed the limit by three standard deviations.
        chance = min(self._limit, 0.5)
        margin = 3 * (examined * chance * (1 - chance)) ** 0.5 if self._limit < 1 else 0
        if skipped + broken > self._allowed(passed + examined) + margin or (twice and broken == examined):
            raise self._too_many(broken, examined, counts_text(causes))
        proven = absent - waiting  # At most `waiting` of the absent slots can be sound.
        if skipped + proven > self._allowed(passed + absent):
            raise self._too_many(proven, absent, f"of {examined} examined: {counts_text(causes)}")

    @staticmethod
    def _advance(state: _Stream) -> None:
        while state.frontier in state.ahead or state.holds(state.frontier):
            state.ahead.discard(state.frontier)
            state.frontier += 1

    def _skip(self, stream: int, slots: list[int]) -> None:
        state = self._streams[stream]
        slots = [slot for slot in slots if not state.holds(slot)]
        for slot, cause in zip(slots, self._diagnose(stream, slots), strict=True):
            if cause is None:
                continue  # It may still arrive.
            at = bisect.bisect_left(state.skipped, slot)
            state.skipped.insert(at, slot)
            state.causes.insert(at, cause.value)
        if slots:
            self._check_limit(max(slots))

    def _allowed(self, passed: int) -> float:
        return allowed_bad_records(passed, self._limit)

    def _too_many(self, broken: int, passed: int, told: str) -> TooManyBadRecordsError:
        return too_many_bad_records(broken, passed, told, self._limit)

    def _check_limit(self, newest: int) -> None:
        skipped = sum(self._base_skipped.values()) + sum(len(s.skipped) for s in self._streams.values())
        passed = sum(max(state.frontier, newest + 1) for state in self._streams.values())
        if skipped > self._allowed(passed):
            raise self._too_many(skipped, passed, counts_text(self._all_causes()))

    def _all_causes(self) -> Counter[str]:
        return self._base_skipped + Counter(c for state in self._streams.values() for c in state.causes)

    def progress(self) -> dict[str, Any]:
        """Counts all slots that arrived or were skipped so far, whether or not training has used them.

        Returns:
            `{"passed": slots, "skipped": {cause: records}}`.
        """
        with self._lock:
            passed = sum(state.frontier for state in self._streams.values())
            return {"passed": passed, "skipped": dict(self._all_causes())}

    def frontier(self, stream: int) -> int:
        """Returns the first slot of a stream that has neither arrived nor been skipped."""
        return self._streams[stream].frontier

    def skipped(self, stream: int) -> dict[str, int]:
        """Counts the slots of a stream that were skipped so far, by cause."""
        with self._lock:
            return dict(sorted(Counter(self._streams[stream].causes).items()))

    def position(self, step: int, pairs_a_step: int) -> dict[str, Any]:
        """Returns the position after `step` steps.

        Returns:
            `{"step", "passed": {stream: slots}, "skipped": {cause: records}}`.

        Raises:
            ValueError: the step is before the first step of this process or, after very many skips, before a step
                whose position was requested earlier.
        """
        if step < self._base_step:
            raise ValueError(
                f"The position at step {step} is not known: this process keeps positions from step "
                f"{self._base_step} on."
            )
        with self._lock:
            used = (step - self._base_step) * pairs_a_step
            skipped = Counter(self._base_skipped)
            passed = {}
            for stream, state in self._streams.items():
                end = passed[str(stream)] = state.passed(used)
                skipped.update(state.causes[: bisect.bisect_left(state.skipped, end)])
            if sum(len(state.skipped) for state in self._streams.values()) > self.KEPT:
                self._base_step, self._base_skipped = step, skipped
                for stream, state in self._streams.items():
                    state.start = passed[str(stream)]
                    kept = bisect.bisect_left(state.skipped, state.start)
                    del state.skipped[:kept], state.causes[:kept]
        return {"step": step, "passed": passed, "skipped": dict(sorted(skipped.items()))}


def allowed_bad_records(passed: int, limit: float) -> float:
    """Returns how many of `passed` records a `bad_record_limit` allows to be broken."""
    return limit if limit >= 1 else max(limit * passed, PositionTracker.GRACE if limit > 0 else 0)


def too_many_bad_records(broken: int, passed: int, told: str, limit: float) -> TooManyBadRecordsError:
    """Makes the error that says how many records are broken. `told` says why they are."""
    what = f"{limit:g} records" if limit >= 1 else f"{limit:.2%} of the records"
    more = f", more than {what}" if broken > allowed_bad_records(passed, limit) else ""
    return TooManyBadRecordsError(
        f"{broken} of {passed} records are broken ({told}){more}. Look at the report of bad records; mend the "
        "data, or raise bad_record_limit."
    )


def state_of(seed: int, fingerprint: str, streams: int, position: dict[str, Any]) -> dict[str, Any]:
    """Returns, as plain JSON, a position together with the data that it belongs to.

    Args:
        seed: the seed of the training data.
        fingerprint: the fingerprint of its records.
        streams: the number of streams of all workers together.
        position: what `PositionTracker.position` returned.
    """
    return {"version": VERSION, "seed": seed, "fingerprint": fingerprint, "streams": streams, **position}


def check_state(state: dict[str, Any], seed: int, fingerprint: str, streams: int | None) -> None:
    """Checks that a position belongs to this data. If `streams` is None, any number of streams is accepted.

    Raises:
        ValueError: the state belongs to another run (its seed, data, or streams differ) or has another format.
    """
    if state.get("version") != VERSION:
        raise ValueError(f"Expected a data position of version {VERSION}. Received: {state.get('version')!r}")
    for key, value in {"seed": seed, "fingerprint": fingerprint}.items():
        if state[key] != value:
            raise ValueError(
                f"The position belongs to other data: its {key} is {state[key]!r}, this one's {value!r}. "
                "Use the data and seed of the run, or start a new run without restoring."
            )
    if streams not in (None, state["streams"]):
        raise ValueError(f"The position has {state['streams']} streams: it cannot continue with {streams}.")


def kernel_to_resume(state: dict[str, Any], here: str) -> str:
    """Returns the kernel that must resize a resumed run's pictures, so that the run ends with the same bits.

    Args:
        state: a position. If it is old and names no kernel, this machine's kernel is returned.
        here: `ImagePreprocessing.resize_kernel` of this machine.

    Raises:
        ValueError: the run used the compiled kernel, and this machine cannot build it.
    """
    began = state.get("resize", here)
    if began == "compiled" and here == "tensorflow":
        raise ValueError(
            "The run began with pictures resized by the compiled operation, and this machine cannot build it: the "
            f"same pictures would differ in bits. {_ONE_KERNEL}"
        )
    return began


def check_one_kernel(kernels: Mapping[str, str | None]) -> None:
    """Raises an error if processes resize the pictures of one run with different kernels.

    Args:
        kernels: `TrainingData.resize_kernel` by the process's name. None for a process that resizes nothing.

    Raises:
        ValueError: two kernels differ; the message names both.
    """
    known = {name: kernel for name, kernel in kernels.items() if kernel is not None}
    (first, kernel), *others = known.items() or [("", None)]
    for name, other in others:
        if other != kernel:
            raise ValueError(
                f"Expected one kernel to resize the pictures of a run: the same pictures would differ in bits. "
                f"Received: {kernel} on {first}, {other} on {name}. {_ONE_KERNEL}"
            )


def merge_states(states: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Joins the workers' positions, each of which covers the worker's own streams.

    Args:
        states: `TrainingData.state(step)` of every worker, at the same step.

    Raises:
        ValueError: there are no states, or they belong to different steps or runs.
    """
    states = list(states)
    if not states:
        raise ValueError("No states to merge.")
    merged = {**states[0], "passed": {}, "skipped": {}}
    skipped: Counter[str] = Counter()
    for state in states:
        for key in merged.keys() - {"passed", "skipped"}:
            if key == "resize" and state.get(key) != merged[key]:
                raise ValueError(
                    "The workers resize pictures by different kernels, so the same pictures differ in bits: "
                    f"{state.get(key)} and {merged[key]}. {_ONE_KERNEL}"
                )
            if state[key] != merged[key]:
                raise ValueError(f"The workers' positions differ in {key}: {state[key]} and {merged[key]}.")
        merged["passed"].update(state["passed"])
        skipped.update(state["skipped"])
    merged["skipped"] = dict(sorted(skipped.items()))
    return merged


def counts_text(causes: Counter[str]) -> str:
    """Formats causes for people: "3 not_utf8, 1 torn_record"."""
    return ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
