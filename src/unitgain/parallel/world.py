"""The processes that work together, and how they find each other.

On one process nothing is initialized and every operation is the identity.
"""

import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unitgain.console import note

T = TypeVar("T")
POLL = 0.05  # seconds between looks at who has come
LOOK = 1.0  # seconds between looks at whether the launcher is there
WORLDS: list[str] = []  # that this process has joined, by address: each has keys of its own in the store
AGENT = 30.0  # seconds in which torchrun's own store must answer: it is there before the processes are


class JoinError(Exception):
    """The processes of a run did not find each other."""


class SharedError(Exception):
    """An error that all processes know of, so that one of them is enough to print it."""


@dataclass(frozen=True)
class World:
    """The processes that work together, and which of them this is.

    Args:
        rank: of this process, 0 to size - 1.
        size: number of processes.
        device: where this process computes.
        background: group of all processes for work beside the training (checkpoints), on the CPU; None for one process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    background: Any = field(default=None, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether this process writes, prints and draws progress bars."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add each tensor up over all processes, in place, on `device`."""
        if self.size > 1:
            for tensor in tensors:
                there = tensor.to(self.device)
                dist.all_reduce(there)
                if there is not tensor:
                    tensor.copy_(there)

    def gather(self, value: T, background: bool = False) -> list[T]:
        """The values of all processes in the order of ranks, on every process; any picklable object.

        Args:
            value: of this process.
            background: beside the training, from a thread of its own.
        """
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self.background if background else None)
        return values  # type: ignore[return-value]

    def broadcast(self, value: T) -> T:
        """The value of rank 0 on every process; any picklable object."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def together(self, phase: str, work: Callable[[], T], background: bool = False) -> T:
        """Do something on all processes; if it fails on any, it fails on all, with a message that names rank and phase.

        Args:
            phase: what is being done, for the message.
            work: called once on each process, without communication of its own that others would wait for in vain.
            background: beside the training, from a thread of its own.

        Raises:
            SharedError: if it failed on some of several processes; a single one raises its own error as it is.
        """
        if self.size == 1:
            return work()
        value, error = None, None
        try:
            value = work()
        except Exception as caught:
            error = caught
        errors = self.gather(None if error is None else f"{type(error).__name__}: {error}", background)
        failed = {rank: text for rank, text in enumerate(errors) if text is not None}
        if failed:
            where = f"rank {', '.join(map(str, failed))} of {self.size}"
            raise SharedError(f"{phase} failed on {where}: {'; '.join(sorted(set(failed.values())))}") from error
        return value  # type: ignore[return-value]

    def on_main(self, function: Callable[[], T]) -> T:
        """Call `function` in the first process; all get its result, or raise its error."""
        if self.size == 1:
            return function()
        outcome: tuple[T | None, Exception | None] = (None, None)
        if self.main:
            try:
                outcome = (function(), None)
            except Exception as error:
                outcome = (None, error)
        result, error = self.broadcast(outcome)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def progress(
        self, on_progress: Callable[[float, int], Any] | None, total: int, before: float = 0
    ) -> Callable[[float], None] | None:
        """Counts what all processes do by what this one does: the others are taken to be as far.

        Args:
            on_progress: called with (done by all, `total`); None for no progress.
            total: of all processes.
            before: done by all before this process begins to count.

        Returns:
            A function to call with what this process has done; None without `on_progress`.
        """
        if on_progress is None:
            return None
        return lambda done: on_progress(min(before + done * self.size, total), total)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`: every `size`-th one from `rank` on; sizes differ by at most one."""
        return items[self.rank :: self.size]


@contextmanager
def processes(
    device: torch.device | str = "cpu",
    timeout: float = 1800.0,
    start: float = 600.0,
    cancelled: Callable[[], object] = bool,
) -> Iterator[World]:
    """The world that torchrun describes in the environment, or a single process.

    Args:
        device: kind of device; with several processes on GPUs each takes the one of its local rank.
        timeout: seconds that a process waits for the others before it fails.
        start: seconds that it waits for the others to come in the first place.
        cancelled: asked while it waits for them to come; a true answer ends the waiting.

    Raises:
        ValueError: if there are more processes than GPUs on a machine, or the environment does not fit together.
        JoinError: if some do not come; it names their ranks.
    """
    device = pick_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_initialized():
        group = dist.new_group(backend="gloo") if dist.get_world_size() > 1 else None
        yield World(dist.get_rank(), dist.get_world_size(), device, group)
        return
    with _launcher_watched() as begun:
        if size == 1:
            begun.set()
            yield World(device=device)
            return
        if device.type == "cuda":
            device = _own_gpu()
        rank, store = _join(size, start, cancelled)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout),
            device_id=device if device.type == "cuda" else None,
        )
        try:
            group = dist.new_group(backend="gloo")
            begun.set()
            yield World(rank, size, device, group)
        finally:
            # Gloo's threads let go of the last messages, for which they need Python's lock; what ends them holds it.
            time.sleep(0.1)
            dist.destroy_process_group()


@contextmanager
def _launcher_watched() -> Iterator[threading.Event]:
    """Notice when torchrun itself is killed, which leaves its processes to themselves; set the event when all have met.

    Until then the process ends at once; afterwards it gets a SIGTERM, on which training stops with a checkpoint.
    """
    begun, over, launcher = threading.Event(), threading.Event(), os.getppid()

    def watch() -> None:
        while not over.wait(LOOK):
            if os.getppid() == launcher:
                continue
            note(f"rank {os.environ.get('RANK', '0')}: torchrun is gone; stopping")
            if not begun.is_set():
                os._exit(1)  # it may wait for others in calls that nothing interrupts, and has begun nothing
            os.kill(os.getpid(), signal.SIGTERM)
            return

    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=watch, name="unitgain-launcher", daemon=True).start()
    try:
        yield begun
    finally:
        over.set()


def beside(name: str, work: Callable[[], None]) -> Future[None]:
    """Do something in a thread of this name, which does not keep the process from ending; what becomes of it."""
    done: Future[None] = Future()
    todo = [work]
    del work

    def run() -> None:
        try:
            todo.pop()()  # tensors that it has are let go of here: torch aborts a process that ends meanwhile
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    return done


def is_lost(error: BaseException) -> bool:
    """Whether this error of a collective operation means that another process is gone, or does not answer."""
    if isinstance(error, dist.DistError):
        return True
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "timed out")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def pick_device(device: torch.device | str, option: str = "--device") -> torch.device:
    """The device of that name; "auto" is the GPU where there is one.

    Args:
        device: or its name.
        option: that gave it, for errors.

    Raises:
        ValueError: if torch knows no device of this name, or a GPU is asked for that it does not find.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if count else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"{option} {device}: torch knows no such device; use auto, cpu, cuda or cuda:NUMBER"
        ) from error
    if chosen.type == "cuda" and not count:
        raise ValueError(f"{option} {device}: torch finds no GPU here; use {option} cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        raise ValueError(f"{option} {device}: torch finds {count} GPUs here; use cuda:0 to cuda:{count - 1}")
    return chosen


def _own_gpu() -> torch.device:
    local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= count:
        raise ValueError(f"process {local} of this machine has no GPU: {count} found; start one process per GPU")
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def _join(size: int, seconds: float, cancelled: Callable[[], object]) -> tuple[int, dist.Store]:
    """Meet the others at the store that the environment names; says who is missing, which the store alone does not."""
    unset = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    rank = int(os.environ.get("RANK", "0"))
    if unset or not 0 <= rank < size:
        settings = f"{', '.join(unset)} not set" if unset else f"RANK={rank}"
        raise ValueError(f"WORLD_SIZE={size}, but {settings}: start the processes with torchrun")
    end = time.monotonic() + seconds
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = _store(where, size, rank == 0 and not agent, min(seconds, AGENT) if agent else seconds)
        # torchrun keeps the store over restarts: what the dead processes left in it must not be taken for ours.
        own = f"unitgain/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{WORLDS.count(where)}"
        store = dist.PrefixStore(own, store)
        store.set(f"here/{rank}", socket.gethostname())
    except RuntimeError as error:
        if agent:
            raise JoinError(f"rank {rank} cannot reach torchrun at {where}, which may have ended: {error}") from error
        raise JoinError(f"rank {rank} cannot reach rank 0 at {where} within {seconds:.0f} s: {error}") from error
    missing = list(range(size))
    while missing := _absent(missing, store, rank, where):
        names = ", ".join(map(str, missing))
        if why := cancelled():
            raise JoinError(f"stopped by {why} while waiting for rank {names}; nothing was begun")
        if time.monotonic() > end:
            raise JoinError(
                f"waited {seconds:.0f} s at {where} for {size} processes, but rank {names} did not come: look at the "
                "output of that process, or start with as many processes as there are"
            )
        time.sleep(POLL)
    WORLDS.append(where)
    return rank, store


@functools.cache  # as long as the process lasts: another may still be leaving one world when this one joins the next
def _store(where: str, size: int, keeper: bool, seconds: float) -> dist.Store:
    """The store at an address, opened once, and kept by this process or another."""
    host, _, port = where.rpartition(":")
    # Not waiting for workers: on its own the store would say that some are missing, but not which.
    timeout = timedelta(seconds=seconds)
    return dist.TCPStore(
        host, int(port), size, is_master=keeper, timeout=timeout, wait_for_workers=False, multi_tenant=True
    )


def _absent(ranks: Sequence[int], store: dist.Store, rank: int, where: str) -> list[int]:
    try:
        return [other for other in ranks if not store.check([f"here/{other}"])]
    except RuntimeError as error:
        raise JoinError(f"rank {rank} lost the store at {where}: whoever keeps it has ended: {error}") from error
