"""Magnitudes of activations and weights by resolution, as in Figs. 3 and 15 (EDM2, Section 2.2 and Appendix A.6).

What is looked at: every weight in the encoder's and decoder's blocks (no biases, no scalar gains), and the immediate
output of the operation that uses it, before any nonlinearity and after the gain. Each feature has one magnitude, the
root mean square over the pixels and the batch (Eqs. 3 and 68); those of all features of a bucket, {Enc, Dec} x
resolution, become their maximum and their mean.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.analysis.buckets import QUANTITIES, bucket_of
from unitgain.arch.linear import PlainConv
from unitgain.denoiser import Denoiser, Label
from unitgain.layers import MPConv
from unitgain.loss import DenoisingLoss
from unitgain.ops import over_pixels
from unitgain.parallel import World, full


@dataclass
class Probe:
    """Magnitudes gathered while a network runs, by layer.

    Attributes:
        squares: per layer, sum over images of the mean square of each feature, float32 on the device.
        images: per layer, how many.
        weights: per layer, magnitude of each row of the weight at the first evaluation.
        counts: whether evaluations count at the moment; a process that only fills up its share has some that do not.
    """

    squares: dict[str, Tensor] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    counts: bool = True

    @torch.no_grad()
    def see(self, name: str, layer: nn.Module, output: Tensor) -> None:
        """Take in one evaluation of a layer."""
        output = output.detach().float()
        output = output if getattr(layer, "kernel", ()) else output.movedim(-1, 1)  # linear layers: features come last
        dims = [dim for dim in range(output.ndim) if dim != 1]
        count = len(output) if self.counts else 0
        square = output.square().mean(dims) * count if count else output.new_zeros(output.shape[1])
        self.squares[name] = self.squares[name] + square if name in self.squares else square
        self.images[name] = self.images.get(name, 0) + count
        if name not in self.weights:
            self.weights[name] = row_magnitudes(full(layer.get_parameter("weight")))

    def merge(self, world: World) -> None:
        """Take in what the other processes have seen; all must call this together."""
        counts = torch.tensor([self.images[name] for name in self.squares])
        world.sum([*self.squares.values(), counts])
        self.images = dict(zip(self.squares, counts.tolist(), strict=True))

    def buckets(self) -> dict[str, dict[str, float]]:
        """The result: `{"Enc 64x64": {"activation_max": ..., ...}, ...}`, in the order of the network.

        Values that are not finite, as of a step whose gradients overflow, are left out.
        """
        layers: dict[str, list[str]] = {}
        for name in self.squares:
            layers.setdefault(bucket_of(name) or "", []).append(name)
        result = {}
        for bucket, names in layers.items():
            activations = torch.cat([(self.squares[name] / self.images[name]).sqrt() for name in names])
            weights = torch.cat([self.weights[name] for name in names])
            tensors = (activations.max(), activations.mean(), weights.max(), weights.mean())
            values = {key: value.item() for key, value in zip(QUANTITIES, tensors, strict=True)}
            result[bucket] = {key: value for key, value in values.items() if math.isfinite(value)}
        return result


@contextmanager
def watch(network: nn.Module) -> Iterator[Probe]:
    """Gather magnitudes of a network of ours while the block runs; before and after, there are no hooks.

    Args:
        network: a denoiser or raw network.
    """
    probe = Probe()
    handles = []
    for name, layer in network.named_modules():
        if isinstance(layer, MPConv | PlainConv) and bucket_of(name):
            handles.append(layer.register_forward_hook(partial(_see, probe, name)))
    try:
        yield probe
    finally:
        for handle in handles:
            handle.remove()


def _see(probe: Probe, name: str, layer: nn.Module, _args: Any, output: Any) -> None:
    probe.see(name, layer, output)


@torch.no_grad()
def measure(
    denoiser: Denoiser,
    batches: Iterable[tuple[Tensor, Label]],
    loss: DenoisingLoss,
    *,
    generator: torch.Generator | None = None,
) -> dict[str, dict[str, float]]:
    """Magnitudes of a network in evaluation mode, over training images at the noise levels of a loss (A.6).

    Args:
        denoiser: as trained, or an average of it; not a prepared one. Stays as it is.
        batches: images as the network sees them, float32 `[n, C, H, W]` on its device, and their labels, int64 `[n]`,
            with what else it is told.
        loss: says how noise levels are drawn.
        generator: of noise levels and noise, on the device of the network.

    Returns:
        As in `Probe.buckets`.

    Raises:
        ValueError: if there are no images.
    """
    was = denoiser.training
    denoiser.eval()
    try:
        with watch(denoiser) as probe:
            for clean, label in batches:
                sigma, noise = loss.draw(clean, generator)
                denoiser(clean + over_pixels(sigma, clean) * noise, sigma, label)
    finally:
        denoiser.train(was)
    if not probe.squares:
        raise ValueError("there are no images to measure magnitudes over")
    return probe.buckets()


def row_magnitudes(weight: Float[Tensor, "..."]) -> Float[Tensor, " c"]:
    """Magnitude of each output feature's weights (Eq. 3): 1 on average for N(0, 1), whatever the fan-in."""
    return weight.detach().float().flatten(1).square().mean(1).sqrt()
