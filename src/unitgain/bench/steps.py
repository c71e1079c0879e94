"""Training steps by name: the plain one that ours is measured against, and ours with its options."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unitgain.bench.cases import DTYPES, lay_out
from unitgain.layers import MPConv
from unitgain.ops import normalize
from unitgain.recipe import Recipe
from unitgain.train.state import TrainState
from unitgain.train.step import Microbatch, train_step

Step = Callable[[Sequence[Microbatch]], object]
"""One training step on these microbatches."""

STEPS = ("plain", *DTYPES)
OPTIONS = ("recompute", "compile", "kernels", "normalize-each")  # of our step
GRAMMAR = (
    "plain, float32, bfloat16 or float16, then +microbatch=N; plain takes +bfloat16 or +float16, the others "
    "+recompute, +compile, +kernels and +normalize-each"
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to make training steps.

    Args:
        start: makes a step from a recipe and a device; what it keeps between steps (weights, optimizer, averages) is
            its own.
        dtype: in which the network computes.
        microbatch: images of a forward pass; None for the whole batch.
    """

    start: Callable[[Recipe, torch.device], Step]
    dtype: torch.dtype = torch.float32
    microbatch: int | None = None


def parse_step(text: str) -> Variant:
    """A variant from text: `plain`, or `float32`, `bfloat16`, `float16` for ours, and options after `+`.

    Raises:
        ValueError: if it is none of these.
    """
    first, *options = text.split("+")
    dtype, microbatch, found = DTYPES.get(first, torch.float32), None, set[str]()
    for option in options:
        word, _, value = option.partition("=")
        if first == "plain" and option in DTYPES:
            dtype = DTYPES[option]
        elif word == "microbatch" and value.isdigit() and int(value):
            microbatch = int(value)
        elif option in OPTIONS and first != "plain":
            found.add(option)
        else:
            raise ValueError(f"cannot read the step {text!r}: write {GRAMMAR}")
    if first not in STEPS:
        raise ValueError(f"cannot read the step {text!r}: write {GRAMMAR}")
    if first == "plain":
        start = lambda recipe, device: plain_step(recipe, device, dtype)  # noqa: E731
    else:
        start = lambda recipe, device: our_step(  # noqa: E731
            recipe,
            device,
            dtype,
            recompute="recompute" in found,
            compile="compile" in found,
            kernels="kernels" in found,
            normalize_once=microbatch is not None and "normalize-each" not in found,
        )
    return Variant(start=start, dtype=dtype, microbatch=microbatch)


def our_step(
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype,
    *,
    recompute: bool = False,
    compile: bool = False,
    kernels: bool = False,
    normalize_once: bool = False,
) -> Step:
    """`train_step`, as `unitgain train` calls it on one process, with the options of `TrainState.around`."""
    state = TrainState.start(
        recipe, device, recompute=recompute, compile=compile, kernels=kernels, normalize_once=normalize_once
    )
    state.denoiser.dtype = dtype
    return lambda microbatches: train_step(state, recipe, microbatches)


def plain_step(recipe: Recipe, device: torch.device, dtype: torch.dtype = torch.float32) -> Step:
    """A step with the same results, written as the papers' formulas read: the baseline.

    Contiguous; weights projected, gradients cleaned, Adam and the averages computed parameter by parameter.
    """
    state = TrainState.start(recipe, device)
    lay_out(state.denoiser, dtype, plain=True)
    parameters = [*state.denoiser.parameters(), *state.uncertainty.parameters()]
    betas = (recipe.beta1, recipe.beta2)
    adam = torch.optim.Adam(parameters, lr=recipe.lr, betas=betas, eps=recipe.eps, foreach=False, fused=False)

    def step(microbatches: Sequence[Microbatch]) -> Tensor:
        if recipe.forced_normalization:
            project(state)
        total = torch.zeros((), device=device)
        for microbatch in microbatches:
            loss = state.objective(microbatch.clean, microbatch.sigma, microbatch.noise, microbatch.label).loss
            (loss.sum() * (recipe.loss_scaling / recipe.batch)).backward()
            total += loss.detach().mean() * (len(microbatch.clean) / recipe.batch)
        for parameter in parameters:
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0.0, posinf=0.0, neginf=0.0, out=parameter.grad)
        for group in adam.param_groups:
            group["lr"] = recipe.learning_rate(state.nimg)
        adam.step()
        adam.zero_grad(set_to_none=True)
        state.nimg += recipe.batch
        average(state, recipe)
        return total

    return step


@torch.no_grad()
def project(state: TrainState) -> None:
    """Eq. 66, layer by layer."""
    for layer in state.modules.modules():
        if isinstance(layer, MPConv):
            layer.weight.copy_(normalize(layer.weight))


@torch.no_grad()
def average(state: TrainState, recipe: Recipe) -> None:
    """The averages of the recipe, parameter by parameter."""
    weights = dict(state.denoiser.named_parameters())
    for ema in state.emas:
        weight = 1 - ema.beta(state.nimg, recipe.batch)
        for name, tensor in ema.average.items():
            tensor.lerp_(weights[name], weight)
        ema.t = float(state.nimg)
