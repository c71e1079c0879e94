"""CUDA graphs: all that an evaluation starts on a GPU, recorded once and started at once from then on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.denoiser import ClassLabel

WARM_UPS = 3  # evaluations before recording, in which libraries choose algorithms and kernels are compiled and tuned

Evaluate = Callable[[Tensor, Tensor, ClassLabel], Tensor]
"""A denoiser: images, noise level of each, and labels, all on its device, to denoised images; it waits for nothing."""

Record = Callable[[Callable[[], Tensor], torch.device, Any], tuple[Callable[[], object], Tensor, Any]]
"""From an evaluation with fixed inputs, its device, and memory to share or None: what repeats it, where it leaves the
result, and the memory."""


@dataclass(frozen=True)
class Recording:
    """An evaluation that can be repeated.

    Attributes:
        x: where it reads the images.
        sigma: where it reads the noise levels, `[N]`, float32.
        label: where it reads classes or mixtures of them; None if it was recorded without.
        repeat: runs it.
        result: where it leaves the denoised images, until another one is run.
        memory: that others may share.
    """

    x: Tensor
    sigma: Tensor
    label: Tensor | None
    repeat: Callable[[], object]
    result: Tensor
    memory: Any


class Graphs:
    """Evaluations recorded for each shape of images and kind of label, when it first occurs.

    Args:
        record: how.
        most: recordings that are kept; of more, the one goes that was not needed for longest.

    What was recorded reads the weights where they lay then: `clear` it when they move. It is for one stream and one
    thread at a time, as all recordings share memory. Copies of this object are empty.
    """

    def __init__(self, record: Record | None = None, most: int = 16) -> None:
        self.record = record or record_cuda
        self.most = most
        self.recordings: dict[tuple[Any, ...], Recording] = {}  # the one that was needed last comes last

    def __call__(
        self, evaluate: Evaluate, x: Float[Tensor, "n c *size"], sigma: Float[Tensor, " n"] | float, label: ClassLabel
    ) -> Float[Tensor, "n c *size"]:
        """What `evaluate` gives, in memory of its own.

        Args:
            evaluate: the same function in every call.
            x: images.
            sigma: noise levels, or a number for all.
            label: checked.
        """
        key = (x.shape, x.device, None if label is None else label.dtype)
        recording = self.recordings.pop(key, None) or self._record(evaluate, x, label)
        self.recordings[key] = recording
        while len(self.recordings) > self.most:
            del self.recordings[next(iter(self.recordings))]
        recording.x.copy_(x)
        if isinstance(sigma, Tensor):
            recording.sigma.copy_(sigma)
        else:
            recording.sigma.fill_(sigma)  # a copy from the host would wait
        if label is not None and recording.label is not None:
            recording.label.copy_(label)
        recording.repeat()
        return recording.result.clone()

    def clear(self) -> None:
        """Forget all recordings, and give their memory back."""
        self.recordings.clear()

    def __reduce__(self) -> tuple[type["Graphs"], tuple[Record, int]]:
        return Graphs, (self.record, self.most)

    def _record(self, evaluate: Evaluate, x: Tensor, label: ClassLabel) -> Recording:
        # Buffers that are made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            fixed = x.to(torch.float32, copy=True)
            sigma = torch.ones(len(x), device=x.device)
            labels = None if label is None else label.to(x.device, copy=True)
            memory = next((one.memory for one in self.recordings.values()), None)
            repeat, result, memory = self.record(lambda: evaluate(fixed, sigma, labels), x.device, memory)
        return Recording(fixed, sigma, labels, repeat, result, memory)


def record_cuda(
    evaluate: Callable[[], Tensor], device: torch.device, memory: Any
) -> tuple[Callable[[], object], Tensor, Any]:
    """A CUDA graph of `evaluate`.

    Memory is shared by what is replayed one after the other, as each result is copied before the next one runs.
    """
    stream = _stream(device)
    with torch.cuda.device(device):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                evaluate()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=memory, stream=stream):
            result = evaluate()
    return graph.replay, result, graph.pool()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Where graphs are recorded; torch's own one is on the device that recorded first."""
    return torch.cuda.Stream(device)
