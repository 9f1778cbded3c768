"""Shared by all tests: the line about outside data, benchmarks that run alone, and their table."""

import fcntl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import OUTSIDE

BENCHMARKS = Path(__file__).parent / "benchmarks"
GATE = 1.25  # CI passes what is at most this much slower than the goal


# -- a benchmark waits until the tests in the other workers have ended, and holds the next ones back


def pytest_configure(config: pytest.Config) -> None:
    workerinput = getattr(config, "workerinput", None)
    config._sevref_lock = workerinput and Path(workerinput["sevref_lock"])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    factory = node.config._tmp_path_factory
    node.workerinput["sevref_lock"] = str(factory.getbasetemp())


@contextmanager
def flock(path: Path, how: int) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    folder = item.config._sevref_lock
    if not folder:  # no other workers
        return (yield)
    alone = item.path.is_relative_to(BENCHMARKS)
    running = (folder / "running.lock").open("w")
    with running:
        with flock(folder / "turnstile.lock", fcntl.LOCK_EX):
            fcntl.flock(running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        return (yield)


# -- ratios to the raw primitive


@pytest.fixture
def ratio(benchmark: Any, record_property: Callable[[str, object], None]) -> Callable[..., float]:
    """``ratio(what, ours, raw, goal, rounds=7)``: best time of ours / best time of raw, interleaved.

    Fails above GATE times the goal; `goal` is the greatest ratio of times wanted (for "0.35 of the raw speed"
    pass 1 / 0.35). Times are the process's CPU time: on a busy machine a call longer than the scheduler's slice would
    pay for its neighbours. pytest-benchmark shows our times too (by the wall clock) where it is active: with `-n 0`.
    """

    def measure(
        what: str, ours: Callable[[], object], raw: Callable[[], object], goal: float, rounds: int = 7
    ) -> float:
        raw()
        benchmark.pedantic(ours, rounds=rounds)  # once where pytest-benchmark is off: warms up
        times: dict[str, list[float]] = {"ours": [], "raw": []}
        for _ in range(rounds):
            for name, call in ("ours", ours), ("raw", raw):
                start = time.process_time()
                call()
                times[name].append(time.process_time() - start)
        mine, theirs = min(times["ours"]), min(times["raw"])
        record_ratio(what, mine, theirs, goal)
        return mine / theirs

    def record_ratio(what: str, mine: float, theirs: float, goal: float) -> None:
        found = mine / theirs
        record_property("ratio", [what, mine, theirs, found, goal])
        assert found <= goal * GATE, f"{what}: {found:.2f} times the raw primitive, goal {goal:.2f}"

    measure.record = record_ratio  # type: ignore[attr-defined]  # for times measured elsewhere (a subprocess)
    return measure


# -- the end of the run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = [
        value
        for kind in ("passed", "failed")
        for report in terminalreporter.getreports(kind)
        for name, value in getattr(report, "user_properties", ())
        if name == "ratio" and report.when == "call"
    ]
    if rows:
        terminalreporter.section("times, as multiples of the raw primitive's")
        line = "{:<44} {:>10} {:>10} {:>7} {:>7} {:>7}"
        terminalreporter.line(line.format("what", "ours ms", "raw ms", "ratio", "goal", "gate"))
        for what, mine, theirs, found, goal in rows:
            numbers = (f"{n:.2f}" for n in (mine * 1e3, theirs * 1e3, found, goal, goal * GATE))
            terminalreporter.line(line.format(what, *numbers))
    reasons = [str(report.longrepr) for report in terminalreporter.getreports("skipped")]
    missing = Counter(reason.split(OUTSIDE, 1)[1].split(" is missing", 1)[0] for reason in reasons if OUTSIDE in reason)
    if missing:
        what = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
        text = f"{missing.total()} checks skipped for lack of: {what}"
    else:
        text = "no check was skipped for lack of it"
    terminalreporter.line(OUTSIDE + text)
