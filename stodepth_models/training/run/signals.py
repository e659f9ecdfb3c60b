"""A request to stop, from a cluster that takes its machine back or from the keyboard."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopRequest"]

TOGETHER = 2.0  # seconds


class StopRequest:
    """Within its context SIGTERM and SIGINT are noted instead of killing the process; a later one kills.

    Launchers, sweeps and cluster managers may each send one: what comes within two seconds counts as one.

    Attributes:
        name: of the signal that came; empty before.
    """

    def __init__(self) -> None:
        self.name = ""
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.name:
            self.name, self._since = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._since > TOGETHER:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
