"""A request to stop, however many programs pass it on."""

import signal

import pytest

from stodepth_models.training.run import signals
from stodepth_models.training.run.signals import StopRequest


@pytest.fixture
def python_handles_interrupts():
    """As in a terminal; a shell lets programs in its background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_interrupts")
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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_each_signal_that_asks_to_stop_is_a_request(name):
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with StopRequest() as stop:
            signal.raise_signal(number)
        assert stop.name == name
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_under_nohup_a_closed_terminal_asks_for_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.name == ""
    finally:
        signal.signal(signal.SIGHUP, before)
