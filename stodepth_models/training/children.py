"""Programs started one after the other; a signal to this process stops the one that runs, which may save first."""

import signal
import subprocess
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Children"]


class Children:
    """Within its context SIGTERM, SIGINT and SIGHUP are handed on, as SIGTERM, instead of ending this process.

    Attributes:
        stopped_by: name of the signal that came first; empty before.
    """

    def __init__(self) -> None:
        self.stopped_by = ""
        self._before: dict[int, Any] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._to_hand_on: deque[int] = deque()

    def __enter__(self) -> "Children":
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> int:
        """Run a program to its end and return its exit code.

        Args:
            command: the program and its arguments.
        """
        # Ctrl-C in a terminal goes to all of a session: to this process and, at the same moment, to a child, which
        # takes the second signal, the one handed on, as an order to die. So it gets a session of its own.
        self._child = subprocess.Popen(command, start_new_session=True)
        self._hand_on()  # what came while the program was being started
        code = self._child.wait()
        self._child = None
        return code

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or signal.Signals(number).name
        self._to_hand_on.append(signal.SIGTERM)  # SIGINT would end a Python that is still importing with a traceback
        self._hand_on()

    def _hand_on(self) -> None:
        """Send each signal once, to the program alone: launchers tell their own, and loaders have to live on."""
        with suppress(IndexError):
            while self._child is not None:
                self._child.send_signal(self._to_hand_on.popleft())
