"""Calls in a process of their own, with little memory and time: what they do to it is seen."""

import json
import os
import resource
import signal

import torch

MEGABYTES = 400  # more than the process has when the call begins
SECONDS = 60


def outcome(function, *arguments, megabytes=MEGABYTES, seconds=SECONDS):
    """`["returned", value]`, or the name and the text of the error; a process killed by a signal fails the test."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                json.dump(_call(function, arguments, megabytes, seconds), pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    assert not os.WIFSIGNALED(status), f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return json.loads(text)


def _call(function, arguments, megabytes, seconds):
    torch.set_num_threads(1)  # a fork has no other threads
    with open("/proc/self/statm") as file:
        limit = int(file.read().split()[5]) * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # memory of its own; mapped files are free
    signal.alarm(seconds)
    try:
        return ["returned", function(*arguments)]
    except BaseException as error:
        return [type(error).__name__, str(error)]
