"""Stopping politely: the first signal asks, the second insists."""

import signal
from types import FrameType, TracebackType


class StopSignal:
    """Context manager that turns SIGINT and SIGTERM into a request to stop after the current step.

    A second signal raises `KeyboardInterrupt` at once; files are written so that this does no damage. Outside the main
    thread, where Python takes no signal handlers, it does nothing.

    Attributes:
        received: name of the signal, or None.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in self.SIGNALS:
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
