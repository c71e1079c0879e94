"""Processes that die at a chosen moment."""

import multiprocessing
import os
import random
import signal

import unitgain.files

CALLS = ("fsync", "replace", "chmod")  # what every file goes through on its way to the disk


def dies(function, moment=None, seconds=None):
    """Call `function()` in a process that is killed at the `moment`-th of the `CALLS`, or after some seconds.

    Returns whether it was killed.
    """
    process = multiprocessing.get_context("fork").Process(target=_live, args=(function, moment, seconds))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL, -signal.SIGALRM), process.exitcode
    return process.exitcode != 0


def _live(function, moment, seconds):
    left = moment if moment is not None else -1

    def counted(call):
        def inner(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return inner

    for name in CALLS:
        setattr(unitgain.files.os, name, counted(getattr(os, name)))
    if seconds is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whose default ends the process wherever it is
        signal.setitimer(signal.ITIMER_REAL, seconds)
    function()


def die_until_done(function, moments, longest):
    """Call `function()` in processes that die, at each of `moments` and at two random times, then in one that lives.

    Returns how many died.
    """
    random.seed(0)
    died = sum(dies(function, moment=moment) for moment in moments)
    died += sum(dies(function, seconds=random.uniform(0.01, longest)) for _ in range(2))
    assert not dies(function)
    return died
