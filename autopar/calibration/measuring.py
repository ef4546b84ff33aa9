"""Run the cases on a device within a budget, and keep what came of each."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from autopar import __version__
from autopar.calibration.cases import COLLECTIVE_KINDS, REFERENCE, Case, Operation, case_bytes
from autopar.calibration.timer import NotTimedError, Timer, Timing
from autopar.calibration.timings import SCHEMA, LeftOut, Timed, Timings, machine_spec
from autopar.errors import DeviceError

logger = logging.getLogger(__name__)

ROTATIONS = 4.0  # times the L2 cache: buffers that a case goes round over
DEFAULT_L2_BYTES = 64 * 2.0**20  # where the device does not say
MEMORY_FRACTION = 0.8  # of the GPU's memory, which one case may take
GIVE_UP = 4  # failures of a kernel without a success, after which it is left out
COLLECTIVES_SHARE = 0.35  # of the budget, where there are any

Told = Callable[[int, int, float], None]  # cases done, of how many, seconds


def rotation_bytes(l2_bytes: float) -> float:
    """Return the size of the buffers that a case goes round over."""
    return ROTATIONS * (l2_bytes or DEFAULT_L2_BYTES)


@dataclass(slots=True)
class Run:
    """What has been measured so far."""

    timings: list[Timed] = field(default_factory=list)
    reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    works: set[tuple[str, str]] = field(default_factory=set)
    reference_us: list[float] = field(default_factory=list)
    interrupted: bool = False

    def keep(self, case: Case, timing: Timing) -> None:
        """Keep a time."""
        self.timings.append(
            Timed(
                operation=cast("Operation", case.operation),
                name=case.name,
                sizes=case.mapping(),
                us=timing.us,
                spread=timing.spread,
                kernel=timing.kernel,
            )
        )
        self.works.add(case.group)

    def leave_out(self, case: Case, reason: str) -> None:
        """Note why a case has no time."""
        self.reasons[(*case.group, reason)] += 1

    def is_hopeless(self, case: Case) -> bool:
        """Whether a kernel has only failed; where it works, single sizes may fail."""
        return case.group not in self.works and self.failures[case.group] >= GIVE_UP

    def refer(self, timer: Timer) -> None:
        """Time the reference once more."""
        try:
            self.reference_us.append(timer.time(REFERENCE).us)
        except NotTimedError as error:
            logger.info("%s: %s", REFERENCE.text(), error)


def measure(
    timer: Timer,
    cases: Sequence[Case],
    seconds: float,
    *,
    link_bandwidth_bytes_per_s: float | None = None,
    told: Told = lambda *_: None,
    clock: Callable[[], float] = time.monotonic,
) -> Timings:
    """Return the times of as many cases as fit in `seconds`, and why others have none.

    Ctrl-C ends the measurement early and keeps what kernels took until then. Raises DeviceError if
    nothing was timed.
    """
    start, run = clock(), Run()
    alone = [case for case in cases if case.operation != "collectives"]
    together = [case for case in cases if case.operation == "collectives"]
    share = seconds * (COLLECTIVES_SHARE if alone else 1.0) if together else 0.0
    try:
        if alone:
            _alone(timer, alone, run, lambda: clock() - start, (seconds - share, told))
        if together:
            left = max(seconds - (clock() - start), share)
            _together(timer, together, run, left)
            told(len(cases), len(cases), clock() - start)
    except KeyboardInterrupt:
        run.interrupted = True
    took = clock() - start
    logger.info("%d of %d cases timed in %.1f s", len(run.timings), len(cases), took)
    if not run.timings:
        raise DeviceError(f"calibrate: nothing could be timed: {_reasons(run)}")
    return Timings(
        schema=SCHEMA,
        autopar=__version__,
        measured_on=datetime.now(UTC).date().isoformat(),
        seconds=round(took, 3),
        interrupted=run.interrupted,
        machine=machine_spec(timer.machine),
        link_bandwidth_bytes_per_s=link_bandwidth_bytes_per_s,
        reference_us=tuple(run.reference_us),
        timings=tuple(run.timings),
        left_out=tuple(
            LeftOut(operation=cast("Operation", operation), name=name, cases=count, reason=reason)
            for (operation, name, reason), count in run.reasons.items()
        ),
    )


def _reasons(run: Run) -> str:
    if not run.reasons:
        return "interrupted" if run.interrupted else "no case was chosen"
    (operation, name, reason), _ = run.reasons.most_common(1)[0]
    return f"{operation} {name}: {reason}"


def _alone(
    timer: Timer,
    cases: Sequence[Case],
    run: Run,
    elapsed: Callable[[], float],
    budget: tuple[float, Told],
) -> None:
    """Time kernels on one GPU, and the reference between them."""
    seconds, told = budget
    room = MEMORY_FRACTION * timer.machine.memory_bytes
    rotation = rotation_bytes(timer.machine.l2_bytes)
    run.refer(timer)
    run.reference_us.clear()  # the first one woke the GPU up
    run.refer(timer)
    for done, case in enumerate(cases):
        if done == len(cases) // 2:
            run.refer(timer)
        told(done, len(cases), elapsed())
        need = case_bytes(case, rotation)
        if elapsed() >= seconds:
            run.leave_out(case, f"not reached in {seconds:.0f} s")
        elif need > room:
            run.leave_out(case, "needs more than the GPU's memory")
        elif run.is_hopeless(case):
            run.leave_out(case, "left out after failures of the same kernel")
        else:
            _one(timer, case, run)
    run.refer(timer)


def _one(timer: Timer, case: Case, run: Run) -> None:
    try:
        run.keep(case, timer.time(case))
    except NotTimedError as error:
        logger.info("%s: %s", case.text(), error)
        run.failures[case.group] += 1
        run.leave_out(case, str(error))


def _together(timer: Timer, cases: Sequence[Case], run: Run, seconds: float) -> None:
    """Time collectives."""
    try:
        times = timer.time_together(cases, seconds)
    except NotTimedError as error:
        for kind in COLLECTIVE_KINDS:
            for case in cases:
                if case.name == kind:
                    run.leave_out(case, str(error))
        return
    for case in cases:
        if case in times:
            run.keep(case, times[case])
        else:
            run.leave_out(case, f"not reached in {seconds:.0f} s")
