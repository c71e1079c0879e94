"""Stopping politely: the first signal asks, the second insists; and a run that has had its time asks itself."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

from unitgain.train.step import Observer

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
REASONS = (*(number.name for number in SIGNALS), "--max-time")
SAME = 2.0  # seconds in which signals count as one: on Ctrl-C torchrun repeats to its processes what the terminal sent
GRACE = 3.0  # seconds that the second signal gives a process which waits for others to notice


class StopSignal(Observer):
    """Context manager that turns SIGINT, SIGTERM and SIGUSR1 into a request to stop after the current step.

    A second signal, more than `SAME` seconds later, raises `KeyboardInterrupt` at once, and ends the process `GRACE`
    seconds later if it is stuck in a call that Python cannot interrupt, waiting for another process; files are written
    so that this does no damage. Outside the main thread, where Python takes no signal handlers, there is only the time.

    What was heard is said at once on standard error, by the first process of several.

    Args:
        max_time: seconds after which the run asks itself to stop; None for no limit.
        quiet: say nothing.

    Attributes:
        received: name of the signal that came to this process, or None.
        agreed: why all processes stop, or None; see `hear`.
    """

    def __init__(self, max_time: float | None = None, quiet: bool = False) -> None:
        self.received: str | None = None
        self.agreed: str | None = None
        self._end = None if max_time is None else time.monotonic() + max_time
        self._first = 0.0
        self._at_once = False
        self._says = not quiet and os.environ.get("RANK", "0") == "0"
        self._previous: dict[signal.Signals, object] = {}
        self._pipe: tuple[socket.socket, socket.socket] | None = None
        self._wakeup = -1  # where somebody else, such as a notebook, wants to hear of signals

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
            self._pipe = socket.socketpair()
            self._pipe[1].setblocking(False)
            self._wakeup = signal.set_wakeup_fd(self._pipe[1].fileno(), warn_on_full_buffer=False)
            threading.Thread(target=_insist, args=(self._pipe[0],), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)  # type: ignore[arg-type]
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup)
            self._pipe[1].close()

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """While this lasts a signal ends the block at once, at the next instruction of Python, up to `before_update`.

        For a first step, which may take minutes, and which a run that goes on from its checkpoint does again.
        """
        try:
            self._at_once = True
            yield
        except _AbandonedError:
            pass
        finally:
            self._at_once = False

    def before_update(self) -> None:
        """Let a step that is about to change the weights come to its end, whatever `abandoning` is around it."""
        self._at_once = False

    def votes(self) -> list[float]:
        """What this process has to say to the others: 1 for each reason to stop, in the order of `REASONS`."""
        late = self._end is not None and time.monotonic() >= self._end
        return [*(float(name == self.received) for name in REASONS[:-1]), float(late)]

    def hear(self, votes: Sequence[float]) -> None:
        """Take in the votes of all processes, added up: any one stops all, at the same step."""
        for name, count in zip(REASONS, votes, strict=True):
            if count and self.agreed is None:
                self.agreed = name

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._first = signal.Signals(number).name, time.monotonic()
            at_once, self._at_once = self._at_once, False
            if self._says:  # not through a file of Python's: this may be in the middle of another line
                how = "at once: the first step is not done" if at_once else "after this step; a second signal aborts"
                os.write(2, f"\n{self.received}: stopping {how}\n".encode())
            if at_once:
                raise _AbandonedError
        elif time.monotonic() - self._first > SAME:
            raise KeyboardInterrupt


class _AbandonedError(BaseException):
    """A signal came while all that is under way may be abandoned; no `except Exception` is meant to hear of it."""


def _insist(pipe: socket.socket) -> None:
    """End the process `GRACE` seconds after a second signal, also where Python's own handlers do not get to run, unless
    the other end of the pipe is closed until then.
    """
    first = None
    with pipe, suppress(TimeoutError):
        while data := pipe.recv(1):
            if data[0] not in SIGNALS:
                continue
            if first is not None and time.monotonic() - first > SAME:
                end = time.monotonic() + GRACE
                while (left := end - time.monotonic()) > 0:
                    pipe.settimeout(left)
                    if not pipe.recv(1):
                        return
                break
            first = first or time.monotonic()
        else:
            return
    os._exit(130)
