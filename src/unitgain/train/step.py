"""One step of training (EDM2, Sections 2.3 and 3, Appendix D.2)."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.denoiser import Label
from unitgain.layers import normalized_once
from unitgain.loss import Loss
from unitgain.parallel import World, accumulate, is_sharded, local, reduce_replicated
from unitgain.recipe import Recipe
from unitgain.train.state import TrainState
from unitgain.train.weights import project_together


@dataclass(frozen=True, kw_only=True)
class Microbatch:
    """Images of one forward and backward pass, with the random draws that go with them.

    Attributes:
        clean: images `[n, C, H, W]`, float32.
        sigma: noise levels `[n]`.
        noise: unit noise, shape of `clean`.
        label: as the denoiser takes it.
        counts: False for a pass that fills up the share of a process which has fewer than others: its gradient is 0.
        last: whether this is the process's last one of the batch, after which gradients are summed.
    """

    clean: Float[Tensor, "n c *size"]
    sigma: Float[Tensor, " n"]
    noise: Float[Tensor, "n c *size"]
    label: Label = None
    counts: bool = True
    last: bool = True


@dataclass(frozen=True)
class StepReport:
    """What one step has to say, the same on all processes.

    Attributes:
        loss: mean over the batch and the pixels of Eq. 21, before the step.
        lr: learning rate used.
        nonfinite: number of non-finite gradient values by parameter name; empty in a healthy step.
        votes: those of all processes, added up.
    """

    loss: float
    lr: float
    nonfinite: dict[str, int] = field(default_factory=dict)
    votes: tuple[float, ...] = ()


class Observer:
    """What looks at a run while it trains, and changes no number of it: statistics, snapshots, checkpoints and so on.

    Each method does nothing unless a subclass says otherwise. All processes call them together, in the order in which
    they stand here; none but `start`, `report` and `end` may wait for the device.
    """

    def start(self) -> None:
        """Before the first step of this process, of a new run or a resumed one."""

    def watching(self) -> AbstractContextManager[object]:
        """Around a whole step, for hooks in modules."""
        return nullcontext()

    def before(self, microbatch: Microbatch) -> None:
        """Before the forward pass of a microbatch."""

    def after(self, microbatch: Microbatch, loss: Loss) -> None:
        """After the forward pass of a microbatch that counts."""

    def before_update(self) -> None:
        """Before the optimizer: gradients are whole and finite."""

    def after_update(self) -> None:
        """After the optimizer, before the averages."""

    def report(self, report: StepReport) -> None:
        """After the step, which counts now."""

    def end(self) -> None:
        """After the last step of this process."""

    def failed(self) -> bool:
        """Whether work beside the training has failed on this process; asked in each step, without waiting for it."""
        return False

    def abandon(self) -> None:
        """After an error that all processes share: wait until what is being written is, well or badly."""


def train_step(
    state: TrainState,
    recipe: Recipe,
    microbatches: Iterable[Microbatch],
    votes: Callable[[], Sequence[float]] = tuple,
    blind: bool | None = None,
    observers: Sequence[Observer] = (),
) -> StepReport:
    """One training step, in the order that keeps the numbers of the official implementation.

    1. Project the weights onto their spheres, if the recipe forces their norm (Eq. 66).
    2. Forward, loss (sum over pixels, mean over the batch) and backward for each microbatch; gradients are summed over
       the processes.
    3. Count non-finite gradients and replace them with 0 (Appendix D.2).
    4. Adam, with the learning rate of the images seen before the step (Eq. 67).
    5. Advance the images seen and update the averages.

    Args:
        state: changed in place.
        recipe: its loss and learning rate are used.
        microbatches: this process's parts of the batch, which has `recipe.batch` images over all processes; each is
            taken when the one before is done, so an iterator may seed the global generator for its dropout.
        votes: gives numbers that all processes are to add up; they travel with the loss and cost nothing.
        blind: replace non-finite gradients without looking whether there are any, so that the device is waited for
            once, at the end of the step; None for so on GPUs.
        observers: look at the microbatches and at the optimizer's step.
    """
    modules = state.modules
    if recipe.forced_normalization:
        project_together(modules)
    total = _gradients(state, recipe, microbatches, observers)
    news = _agree(state.world, total, all_finite(modules), votes())
    # To ask a GPU whether all is well would have it wait: there the values are replaced in any case.
    blind = state.device.type == "cuda" if blind is None else blind
    nonfinite = replace_nonfinite(modules, state.world) if blind or news[1] else None
    lr = recipe.learning_rate(state.nimg)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    for observer in observers:
        observer.before_update()
    state.optimizer.step()
    for observer in observers:
        observer.after_update()
    state.optimizer.zero_grad(set_to_none=True)
    state.nimg += recipe.batch
    for ema in state.emas:
        ema.update(t=state.nimg, dt=recipe.batch)
    loss, broken, *heard = news.tolist()
    return StepReport(loss, lr, named(nonfinite) if broken and nonfinite is not None else {}, tuple(heard))


def _gradients(
    state: TrainState, recipe: Recipe, microbatches: Iterable[Microbatch], observers: Sequence[Observer]
) -> Tensor:
    """Gradients of the whole batch, summed over the processes; returns this process's part of the mean loss."""
    total = torch.zeros((), device=state.device)
    with normalized_once(state.modules) if state.normalize_once else nullcontext():
        for microbatch in microbatches:
            for observer in observers:
                observer.before(microbatch)
            with accumulate(state.objective, microbatch.last):
                loss = state.objective(microbatch.clean, microbatch.sigma, microbatch.noise, microbatch.label)
                (loss.loss.sum() * (recipe.loss_scaling / recipe.batch if microbatch.counts else 0.0)).backward()
            if microbatch.counts:
                total += loss.loss.detach().mean() * (len(microbatch.clean) / recipe.batch)
                for observer in observers:
                    observer.after(microbatch, loss)
    reduce_replicated(state.objective, state.world)
    return total


def _agree(world: World, loss: Tensor, finite: Tensor, votes: Sequence[float]) -> Tensor:
    """Loss, whether something is not finite, and votes, of all processes added up: one small message; float64."""
    ours = torch.tensor(votes, dtype=torch.float64).to(loss.device, non_blocking=True)
    sums = torch.cat([torch.stack([loss, 1.0 - finite.float()]).double(), ours])
    world.sum([sums])
    return sums


def all_finite(module: nn.Module) -> Tensor:
    """Whether all gradients that lie here are finite, and their squares add up; a boolean on the device.

    Sums of squares past the range of float32 pass for infinite: who looks closer then finds nothing to replace.
    """
    gradients = [local(p.grad) for p in module.parameters() if p.grad is not None]
    norms = torch._foreach_norm([gradient for gradient in gradients if gradient.numel()])  # others take 4 times as long
    return torch.isfinite(torch.stack(norms)).all()


@torch.no_grad()
def replace_nonfinite(module: nn.Module, world: World) -> tuple[list[str], Tensor]:
    """Replace NaN and infinite gradient values with 0, and count them over all processes (D.2).

    Returns:
        Names of the parameters, and the counts of each, int64 on the device.
    """
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    counts = torch.stack([(~torch.isfinite(local(gradient))).sum() for gradient in gradients.values()])
    whole = torch.tensor([not is_sharded(gradient) for gradient in gradients.values()], device=counts.device)
    summed = counts.clone()
    world.sum([summed])
    counts = torch.where(whole, counts, summed)  # what is whole on every process is counted once
    for gradient in gradients.values():
        local(gradient).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return list(gradients), counts


def named(counts: tuple[list[str], Tensor]) -> dict[str, int]:
    """Counts that are not 0, by name."""
    return {name: count for name, count in zip(counts[0], counts[1].tolist(), strict=True) if count}
