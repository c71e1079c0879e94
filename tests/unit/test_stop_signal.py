"""A second signal ends what is stuck, and nothing else."""

import os
import signal
import socket
import time

import pytest

from unitgain.train import signals


@pytest.fixture
def ended(monkeypatch):
    """Calls that would have ended this process."""
    calls: list[int] = []
    monkeypatch.setattr(signals, "SAME", 0.0)
    monkeypatch.setattr(signals, "GRACE", 0.3)
    monkeypatch.setattr(signals.os, "_exit", calls.append)
    return calls


def interrupt_twice():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)


def test_a_process_that_comes_to_its_end_is_left_alone_and_hears_signals_as_before(ended):
    theirs = socket.socketpair()
    theirs[1].setblocking(False)
    before = signal.set_wakeup_fd(theirs[1].fileno())
    try:
        with pytest.raises(KeyboardInterrupt), signals.StopSignal(quiet=True):
            interrupt_twice()
        time.sleep(0.6)
        assert not ended
        assert signal.set_wakeup_fd(theirs[1].fileno()) == theirs[1].fileno()
    finally:
        signal.set_wakeup_fd(before)
        for one in theirs:
            one.close()


def test_a_process_that_is_stuck_is_ended(ended):
    with signals.StopSignal(quiet=True):
        with pytest.raises(KeyboardInterrupt):
            interrupt_twice()
        time.sleep(0.6)
    assert ended == [130]
