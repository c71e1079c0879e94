"""Run a function in several processes that find each other as under torchrun."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing

PRELOAD = [
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch._dynamo",
    "torch.onnx",
    "unitgain.train",
]


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launch(function: Callable[..., Any], size: int, *args: Any) -> None:
    """Call `function(rank, *args)` in `size` fresh processes; the first failure is raised here.

    `function` must be importable (at the top of a module); it opens its world with `unitgain.parallel.processes`.
    Processes are forked from one that has imported everything, which saves the seconds that each would need for it.
    """
    multiprocessing.set_forkserver_preload(PRELOAD)
    port = free_port()
    torch.multiprocessing.start_processes(_enter, (size, port, function, args), nprocs=size, start_method="forkserver")


def _enter(rank: int, size: int, port: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    function(rank, *args)
