"""Checks that go on after a failure: running them, and their report as JSON and as a Markdown page."""

import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        reason: one sentence with the figures that decide.
        passed: whether the promise holds.
        rows: a table of measurements, one mapping from column to value a row.
    """

    reason: str
    passed: bool = True
    rows: Sequence[Row] = ()


class NotRunError(Exception):
    """Raised by a check that this machine cannot run; the message says what it needs."""


@dataclass(frozen=True)
class Outcome:
    """A check that was called.

    Attributes:
        name: what is checked.
        result: ``"pass"``, ``"fail"`` or ``"not run"``.
        reason: why.
        seconds: wall-clock time that the check took.
        rows: see :class:`Finding`.
    """

    name: str
    result: str
    reason: str
    seconds: float
    rows: Sequence[Row] = field(default=(), repr=False)


def run_checks(checks: dict[str, Callable[[], Finding]], limit_s: float) -> list[Outcome]:
    """Run every check; those that are left when ``limit_s`` seconds are over fail."""
    end = time.monotonic() + limit_s
    outcomes = []
    for name, check in checks.items():
        outcome = run_check(name, check, end - time.monotonic())
        print(f"{outcome.result:7} {outcome.seconds:6.1f} s  {name}: {outcome.reason}", flush=True)
        outcomes.append(outcome)
    return outcomes


def run_check(name: str, check: Callable[[], Finding], seconds_left: float) -> Outcome:
    """Run one check for at most ``seconds_left``; whatever it raises makes it fail."""
    started = time.monotonic()
    try:
        with time_limit(seconds_left):
            finding = check()
        result = "pass" if finding.passed else "fail"
    except NotRunError as error:
        finding, result = Finding(str(error)), "not run"
    except Exception as error:
        traceback.print_exc()
        first_line = str(error).strip().partition("\n")[0]
        finding, result = Finding(f"{type(error).__name__}: {first_line}"), "fail"
    return Outcome(name, result, finding.reason, time.monotonic() - started, finding.rows)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in the main thread once the time is over, where the system has such a timer."""
    if seconds <= 0:
        raise TimeoutError("the time for all checks is over")
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError("the time for all checks is over")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def to_page(title: str, machine: dict[str, str], remarks: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """Return the report as a Markdown page."""
    parts = [f"# {title}"]
    parts += remarks
    parts.append(_table(["", ""], [list(item) for item in machine.items()]))
    checks = []
    for outcome in outcomes:
        checks.append([outcome.name, outcome.result, f"{outcome.seconds:.1f}", outcome.reason])
    parts.append(_table(["check", "result", "s", "reason"], checks))
    for outcome in outcomes:
        if outcome.rows:
            parts += [f"## {outcome.name}", rows_to_table(outcome.rows)]
    return "\n\n".join(parts) + "\n"


def rows_to_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of rows that have the same columns."""
    cells = []
    for row in rows:
        cells.append([_cell(value) for value in row.values()])
    return _table(list(rows[0]), cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    # A bar within a cell would end it.
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
