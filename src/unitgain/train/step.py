"""The state of a training run, and one step of it (EDM2, Sections 2.3 and 3, Appendix D.2)."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.denoiser import Denoiser, Label, make_uncertainty
from unitgain.ema import ExponentialEMA, PowerEMA
from unitgain.layers import normalized_once, project_weights
from unitgain.loss import EDMLoss
from unitgain.parallel import World, accumulate, distribute, is_sharded, local, reduce_replicated
from unitgain.recipe import Recipe
from unitgain.recipes import create
from unitgain.train.memory import blocks, recompute_blocks


class Objective(nn.Module):
    """What is trained, as one module that can be distributed: networks in, loss of every pixel out.

    Args:
        denoiser: the network in training.
        uncertainty: u(sigma), trained beside it.
        loss: of the recipe.
    """

    def __init__(self, denoiser: Denoiser, uncertainty: nn.Module, loss: EDMLoss) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.uncertainty = uncertainty
        self.loss = loss

    def forward(self, clean: Tensor, sigma: Tensor, noise: Tensor, label: Label) -> Tensor:
        """Eq. 21, `[N, C, H, W]`."""
        return self.loss(self.denoiser, self.uncertainty, clean, sigma, noise, label)


@dataclass(kw_only=True)
class TrainState:
    """Everything that changes while training; saved whole in checkpoints.

    Attributes:
        denoiser: the network in training, float32 parameters.
        uncertainty: u(sigma), trained beside it; without parameters where the recipe has none.
        objective: both, distributed over the processes.
        optimizer: Adam over the parameters of both.
        emas: averages of the denoiser, one per length of the recipe, the exponential one last.
        world: the processes that train together.
        normalize_once: normalize weights once for all microbatches of a step; for one process alone.
        nimg: images seen.
    """

    denoiser: Denoiser
    uncertainty: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    emas: list[PowerEMA | ExponentialEMA]
    world: World = field(default_factory=World)
    normalize_once: bool = False
    nimg: int = 0

    @classmethod
    def start(cls, recipe: Recipe, device: torch.device | str = "cpu", **how: Any) -> "TrainState":
        """The state before the first step, initialized from torch's global generator; `how` is that of `around`."""
        uncertainty = make_uncertainty(recipe.network.design, recipe.uncertainty_channels)
        return cls.around(create(recipe), uncertainty, recipe, device, **how)

    @classmethod
    def around(
        cls,
        denoiser: Denoiser,
        uncertainty: nn.Module,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        *,
        world: World | None = None,
        shard: bool = False,
        recompute: bool = False,
        compile: bool = False,
        normalize_once: bool = False,
        ema_device: str | None = None,
    ) -> "TrainState":
        """The state before the first step of training these two.

        Args:
            denoiser: the network; with several processes the same on all of them.
            uncertainty: u(sigma), likewise.
            recipe: its optimizer, loss and averages are used.
            device: where to train.
            world: the processes that train together; one by default.
            shard: with several processes, cut parameters, gradients, optimizer and averages up among them (FSDP2)
                rather than keep a replica on each (DDP).
            recompute: forget the activations inside blocks and compute them again in the backward pass.
            compile: compile every block (`torch.compile`).
            normalize_once: as the attribute.
            ema_device: where the averages are kept; None for beside the parameters.
        """
        world = world or World(device=torch.device(device))
        denoiser = denoiser.to(device).train()
        uncertainty = uncertainty.to(device).train()
        if recompute:
            recompute_blocks(denoiser)
        if compile:
            for block in blocks(denoiser):
                block.compile(dynamic=False)
        objective = Objective(denoiser, uncertainty, EDMLoss(recipe.P_mean, recipe.P_std))
        distributed = distribute(objective, world, blocks(denoiser) if shard else None)
        adam = make_optimizer([*denoiser.parameters(), *uncertainty.parameters()], recipe)
        emas: list[PowerEMA | ExponentialEMA] = [PowerEMA(denoiser, length, device=ema_device) for length in recipe.ema]
        if recipe.ema_half_life:
            emas.append(ExponentialEMA(denoiser, recipe.ema_half_life, device=ema_device))
        state = cls(
            denoiser=denoiser,
            uncertainty=uncertainty,
            objective=distributed,
            optimizer=adam,
            emas=emas,
            world=world,
            normalize_once=normalize_once and world.size == 1,
        )
        if world.size > 1:
            state.rehearse()
        return state

    def rehearse(self) -> None:
        """One forward and backward pass that changes nothing.

        DDP orders its messages anew after the first pass of a process. Without a rehearsal the first step after a
        resume would add up in another order than the same step of a run that was not stopped.
        """
        spec, device = self.denoiser.spec, self.device
        image = torch.zeros(1, spec.channels, spec.resolution, spec.resolution, device=device)
        label = torch.zeros(1, dtype=torch.int64, device=device) if spec.label_dim else None
        with accumulate(self.objective, last=True):
            self.objective(image, torch.ones(1, device=device), image, label).sum().backward()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.denoiser.parameters()).device

    @property
    def modules(self) -> nn.ModuleDict:
        """Both networks; parameter names (`denoiser.*`, `uncertainty.*`) are those of checkpoints and messages."""
        return nn.ModuleDict({"denoiser": self.denoiser, "uncertainty": self.uncertainty})


def make_optimizer(parameters: Sequence[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Adam by a recipe, with its state made at once, so that a checkpoint can be loaded into it."""
    # One kind of tensor to a group: a fused step does not mix sharded ones and others.
    kinds = [[p for p in parameters if is_sharded(p)], [p for p in parameters if not is_sharded(p)]]
    groups = [{"params": kind} for kind in kinds if kind]
    adam = torch.optim.Adam(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=True)
    for parameter in parameters:  # what Adam itself makes in its first step
        adam.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    return adam


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

    clean: Float[Tensor, "n c h w"]
    sigma: Float[Tensor, " n"]
    noise: Float[Tensor, "n c h w"]
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


def train_step(
    state: TrainState,
    recipe: Recipe,
    microbatches: Iterable[Microbatch],
    votes: Callable[[], Sequence[float]] = tuple,
    blind: bool | None = None,
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
    """
    batch = recipe.batch
    modules = state.modules
    if recipe.forced_normalization:
        project_weights(modules)
    total = torch.zeros((), device=state.device)
    with normalized_once(modules) if state.normalize_once else nullcontext():
        for microbatch in microbatches:
            with accumulate(state.objective, microbatch.last):
                loss = state.objective(microbatch.clean, microbatch.sigma, microbatch.noise, microbatch.label)
                (loss.sum() * (recipe.loss_scaling / batch if microbatch.counts else 0.0)).backward()
            if microbatch.counts:
                total += loss.detach().mean() * (len(microbatch.clean) / batch)
    reduce_replicated(state.objective, state.world)
    news = _agree(state.world, total, all_finite(modules), votes())
    # To ask a GPU whether all is well would have it wait: there the values are replaced in any case.
    blind = state.device.type == "cuda" if blind is None else blind
    found = replace_nonfinite(modules, state.world) if blind or news[1] else None
    lr = recipe.learning_rate(state.nimg)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.nimg += batch
    for ema in state.emas:
        ema.update(t=state.nimg, dt=batch)
    loss, broken, *heard = news.tolist()
    return StepReport(loss, lr, named(found) if broken and found is not None else {}, tuple(heard))


def _agree(world: World, loss: Tensor, finite: Tensor, votes: Sequence[float]) -> Tensor:
    """Loss, whether something is not finite, and votes, of all processes added up: one small message; float64."""
    ours = torch.tensor(votes, dtype=torch.float64).to(loss.device, non_blocking=True)
    sums = torch.cat([torch.stack([loss, 1.0 - finite.float()]).double(), ours])
    world.sum([sums])
    return sums


def all_finite(module: nn.Module) -> Tensor:
    """Whether all gradients that lie here are finite; a boolean on the device."""
    gradients = [local(p.grad) for p in module.parameters() if p.grad is not None]
    norms = torch._foreach_norm([gradient for gradient in gradients if gradient.numel()], ord=float("inf"))
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


def state_tensors(state: TrainState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as flat tensors and JSON values; the tensors are the state's own, not copies."""
    modules = state.modules
    tensors = {f"model.{name}": tensor for name, tensor in modules.state_dict().items()}
    for name, parameter in modules.named_parameters():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    for index, ema in enumerate(state.emas):
        tensors |= {f"ema{index}.average.{name}": tensor for name, tensor in ema.sharded().items()}
        tensors |= {f"ema{index}.buffers.{name}": tensor for name, tensor in ema.buffers.items()}
    values = {"nimg": state.nimg, "ema": [{"t": ema.t} for ema in state.emas]}
    return tensors, values


@torch.no_grad()
def restore(state: TrainState, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Finish the loading of a checkpoint into the tensors that `state_tensors` gave of this state."""
    for index, (ema, saved) in enumerate(zip(state.emas, values["ema"], strict=True)):
        for name, own in ema.average.items():
            own.copy_(local(tensors[f"ema{index}.average.{name}"]))  # they lie elsewhere if averages do
        ema.t = float(saved["t"])
    state.nimg = values["nimg"]
