"""A request to stop, however many programs pass it on."""

import signal

import pytest

from stodepth_models.training.run import signals
from stodepth_models.training.run.signals import StopRequest


def test_signals_that_come_together_are_one_and_a_later_one_kills(monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        assert stop.name == ""
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert stop.name == "SIGINT"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    monkeypatch.setattr(signals, "TOGETHER", -1.0)
    with StopRequest():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
