"""Signals that stop a run: caught so that it saves first, or forwarded to the program that runs it."""

import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

TOGETHER = 2.0  # seconds

_Handler = Callable[[int, FrameType | None], None]


class StopRequest:
    """Within its context the first SIGTERM, SIGINT or SIGHUP is remembered instead of killing the process.

    Launchers, sweeps and cluster managers may each send one: signals within two seconds of the first count as one
    request. A later one kills.

    Attributes:
        name: of the signal that came; empty before.
    """

    def __init__(self) -> None:
        self.name = ""
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = _install(self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if not self.name:
            self.name, self._since = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._since > TOGETHER:
            _restore(self._before)
            signal.raise_signal(number)


class ForwardSignals:
    """Runs programs one after the other; within its context signals stop the one that runs, which may save first.

    SIGTERM, SIGINT and SIGHUP are forwarded as SIGTERM instead of ending this process.

    Attributes:
        stopped_by: name of the signal that came first; empty before.
    """

    def __init__(self) -> None:
        self.stopped_by = ""
        self._before: dict[int, Any] = {}
        self._program: subprocess.Popen[bytes] | None = None
        self._pending: deque[int] = deque()

    def __enter__(self) -> "ForwardSignals":
        self._before = _install(self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)

    def run(self, command: Sequence[str]) -> int:
        """Run a program to its end and return its exit code.

        Args:
            command: the program and its arguments.
        """
        # Ctrl-C in a terminal goes to the whole session: to this process and, at the same moment, to the program, which
        # would take the forwarded signal as a second one, an order to die. So the program gets a session of its own.
        self._program = subprocess.Popen(command, start_new_session=True)
        self._forward()  # signals that came while the program was being started
        code = self._program.wait()
        self._program = None
        return code

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or signal.Signals(number).name
        self._pending.append(signal.SIGTERM)  # SIGINT would end a Python that is still importing with a traceback
        self._forward()

    def _forward(self) -> None:
        """Send each signal once, to the program alone: launchers signal their processes, and loaders have to live."""
        with suppress(IndexError):
            while self._program is not None:
                self._program.send_signal(self._pending.popleft())


def _install(handler: _Handler) -> dict[int, Any]:
    """Handle SIGTERM, SIGINT and SIGHUP (a closed ssh session), and return the handlers of before."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    # nohup ignores SIGHUP: the program is meant to outlive its terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return {number: signal.signal(number, handler) for number in numbers}


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
