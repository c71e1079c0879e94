"""Count what a network costs: parameters, operations by kind and by part, memory.

Counted on the meta device, so that nothing is computed and no memory is needed, through a dispatch mode that sees every
tensor operation: no layer knows of it, and any module can be counted. One multiply-add is one operation, as in the
papers; the normalization of weights counts like anything else, so this is the cost of an unfolded network.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker

from unitgain.analysis.buckets import bucket_of
from unitgain.analysis.counts import Cost
from unitgain.analysis.flops import flops, operation
from unitgain.arch import NetworkSpec
from unitgain.arch.values import placeholder
from unitgain.denoiser import Denoiser, parameter_count


@functools.cache
def network_cost(spec: NetworkSpec) -> Cost:
    """The cost of a network of ours, at its own resolution, with its preconditioning; counted once in a process."""
    return cost(_on_meta(spec), *denoiser_inputs(spec, 1))


def network_memory(spec: NetworkSpec) -> int:
    """Bytes that training a network of ours keeps for the backward pass of one sample, in float32."""
    return activation_bytes(_on_meta(spec), lambda n: denoiser_inputs(spec, n))


def _on_meta(spec: NetworkSpec) -> nn.Module:
    with torch.device("meta"):
        return Denoiser(spec).eval()


def denoiser_inputs(spec: NetworkSpec, n: int) -> tuple[Any, ...]:
    """Arguments of a denoiser for `n` samples, on the meta device."""
    x = torch.empty(n, spec.channels, *spec.size, device="meta")
    label = torch.empty(n, spec.label_dim, device="meta") if spec.label_dim else None
    return x, torch.empty(n, device="meta"), placeholder(spec, label, n, "meta")


def cost(module: nn.Module, *inputs: Any) -> Cost:
    """The cost of any module.

    Args:
        module: on the meta device for free, elsewhere at the price of an evaluation.
        inputs: arguments of `module` for one sample, on its device.
    """
    counter = OperationCounter()
    with torch.no_grad(), counter.modules, counter:
        module(*inputs)
    return Cost(
        parameters=parameter_count(module),
        flops=sum(counter.by_op.values()),
        by_op=dict(counter.by_op.most_common()),
        by_part=_grouped(counter.by_path, part_of),
        by_resolution=_grouped(counter.by_path, resolution_of),
    )


class OperationCounter(TorchDispatchMode):
    """Counts operations by kind and by the module that runs them.

    Attributes:
        by_op: operations by kind.
        by_path: operations by the innermost module's name, "" outside all.
        modules: follows which of them is running, while it is entered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_op: Counter[str] = Counter()
        self.by_path: Counter[str] = Counter()
        self.modules = ModuleTracker()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        out = func(*args, **(kwargs or {}))
        if count := flops(func, args, out):
            self.by_op[operation(func)] += count
            innermost = max(self.modules.parents - {"Global"}, key=len, default="")  # each is within all others
            self.by_path[innermost.partition(".")[2]] += count  # without the class of the whole
        return out


def part_of(path: str) -> str:
    """Part of one of our networks from the name of a module: embedding, attention, encoder, decoder or output.

    The linear layers that modulate a block belong to the block. Other modules are their own part.
    """
    inner = path.removeprefix("network.")
    if re.search(r"(^|\.)attention(\.|$)", inner):
        return "attention"
    top = inner.partition(".")[0]
    names = {"enc": "encoder", "dec": "decoder", "network": "other", "": "other"}
    return "output" if top.startswith("out_") else names.get(top, top)


def resolution_of(path: str) -> str | None:
    """Resolution at which a module of one of our networks runs, "64x64", or None where it has none."""
    bucket = bucket_of(path)
    return bucket and bucket.partition(" ")[2]


def _grouped(by_path: Counter[str], key: Callable[[str], str | None]) -> dict[str, int]:
    groups: dict[str, int] = {}
    for path, count in by_path.items():
        if (name := key(path)) is not None:
            groups[name] = groups.get(name, 0) + count
    return groups


def activation_bytes(module: nn.Module, inputs: Callable[[int], Sequence[Any]]) -> int:
    """Bytes that autograd keeps for the backward pass of one more sample: two samples' less one's.

    Args:
        module: on the meta device for free, elsewhere at the price of two evaluations.
        inputs: makes the arguments of `module` for n samples, on its device.
    """
    return _saved_bytes(module, inputs(2)) - _saved_bytes(module, inputs(1))


def _saved_bytes(module: nn.Module, inputs: Sequence[Any]) -> int:
    seen: dict[Any, int] = {}
    kept = []  # a storage that is freed may give its identity to the next

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage._cdata] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(*inputs)
    del output
    return sum(seen.values())
