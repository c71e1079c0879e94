"""What training costs each of many devices: memory and messages per step, under DDP and FSDP2.

Counted from the shapes of the parameters. P is their number, E the number of averages, n that of processes. Everything
is float32, 4 bytes.

DDP: each device holds weights, gradients, two moments of Adam and E averages, `4 (4 + E) P`; per step each sums its
gradients with the others', `4 P`.

FSDP2: rows are cut into n equal shares, rounded up, so a parameter takes `ceil(rows / n) n` rows; scalars stay whole.
Blocks are gathered for the forward pass and again for the backward pass; what is outside the blocks (the embedding, the
output layer, u(sigma)) is gathered once per pass. Gradients are summed once per step, and each device keeps its rows of
the sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

WORD = 4  # bytes of float32


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Shapes of what is trained: parameters of each block, and those outside all blocks."""

    blocks: tuple[tuple[torch.Size, ...], ...]
    rest: tuple[torch.Size, ...]

    @property
    def all(self) -> list[torch.Size]:
        """Of all parameters."""
        return [shape for part in (*self.blocks, self.rest) for shape in part]


def shapes_of(module: nn.Module, blocks: Sequence[nn.Module]) -> Shapes:
    """Shapes of a module, on any device (meta for free), that is trained in these blocks."""
    inner = {parameter for block in blocks for parameter in block.parameters()}
    return Shapes(
        blocks=tuple(tuple(parameter.shape for parameter in block.parameters()) for block in blocks),
        rest=tuple(parameter.shape for parameter in module.parameters() if parameter not in inner),
    )


def padded(shapes: Sequence[torch.Size], processes: int) -> int:
    """Numbers of these tensors when rows are filled up to a multiple of the processes; scalars are not cut."""
    return sum(math.ceil(s[0] / processes) * processes * math.prod(s[1:]) for s in shapes if s)


def scalars(shapes: Sequence[torch.Size]) -> int:
    """How many parameters are a single number without dimensions."""
    return sum(not shape for shape in shapes)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one process hands to collective operations in one step, bytes of whole tensors.

    Attributes:
        gathered: results of all-gathers.
        scattered: inputs of reduce-scatters.
        summed: tensors of all-reduces.
    """

    gathered: int
    scattered: int
    summed: int

    def sent(self, processes: int) -> float:
        """Bytes that each process sends in a ring: (n - 1)/n of what is gathered or scattered, twice that of a sum."""
        return (self.gathered + self.scattered + 2 * self.summed) * (processes - 1) / processes


def traffic(shapes: Shapes, processes: int, shard: bool, passes: int = 1) -> Traffic:
    """Messages of one step, without the few numbers that carry the loss.

    Args:
        shapes: of what is trained.
        processes: that train together, at least 2.
        shard: FSDP2 rather than DDP.
        passes: microbatches per process and step.
    """
    if not shard:
        return Traffic(gathered=0, scattered=0, summed=WORD * sum(math.prod(shape) for shape in shapes.all))
    blocks = sum(padded(block, processes) for block in shapes.blocks)
    rest = padded(shapes.rest, processes)
    return Traffic(
        gathered=WORD * passes * (2 * blocks + rest),
        scattered=WORD * (blocks + rest),
        summed=WORD * scalars(shapes.all),
    )


def copy_bytes(shapes: Shapes, processes: int, shard: bool) -> int:
    """Memory of one number for each parameter (a weight, a gradient, ...), on the process that has most of them."""
    if shard:
        return WORD * (padded(shapes.all, processes) // processes + scalars(shapes.all))
    return WORD * sum(math.prod(shape) for shape in shapes.all)


def state_bytes(shapes: Shapes, processes: int, shard: bool, averages: int) -> int:
    """Memory of weights, gradients, optimizer and averages on the process that has most of them, between two passes."""
    return (4 + averages) * copy_bytes(shapes, processes, shard)


def working_bytes(shapes: Shapes, shard: bool) -> int:
    """Memory that FSDP2 takes in a pass beside that: weights outside the blocks, and twice the largest block with its
    gradient, as the next one is gathered while one computes; none under DDP.
    """
    if not shard:
        return 0
    largest = max(sum(math.prod(shape) for shape in block) for block in shapes.blocks)
    return WORD * (2 * sum(math.prod(shape) for shape in shapes.rest) + 2 * 2 * largest)
