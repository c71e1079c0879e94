"""The state of a training run: networks, optimizer, averages; and what of it a checkpoint keeps."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unitgain.arch.values import placeholder
from unitgain.denoiser import Denoiser, Label, make_uncertainty
from unitgain.ema import ExponentialEMA, PowerEMA
from unitgain.kernels import fuse
from unitgain.loss import DenoisingLoss, Loss
from unitgain.parallel import World, accumulate, distribute, is_sharded, local, pick_device
from unitgain.recipe import Recipe
from unitgain.recipes import create
from unitgain.train.blocks import blocks, compile_blocks, recompute_blocks
from unitgain.train.config import Execution
from unitgain.train.passes import fuse_passes
from unitgain.train.weights import weights_together


class Objective(nn.Module):
    """What is trained, as one module that can be distributed: images in, loss out.

    Args:
        denoiser: the network in training.
        uncertainty: u(sigma), trained beside it.
        loss: of the recipe.
        together: make weights of convolutions in one call (`weights_together`), where C can.
    """

    def __init__(self, denoiser: Denoiser, uncertainty: nn.Module, loss: DenoisingLoss, together: bool = False) -> None:
        super().__init__()
        self.together = together
        self.denoiser = denoiser
        self.uncertainty = uncertainty
        self.loss = loss

    def forward(self, clean: Tensor, sigma: Tensor, noise: Tensor, label: Label) -> Loss:
        """Eq. 21."""
        with weights_together(self.denoiser) if self.together else nullcontext():
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
    def start(
        cls,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        adapt: Callable[[Denoiser, nn.Module], object] = lambda *_: None,
        **how: Any,
    ) -> "TrainState":
        """The state before the first step, initialized from torch's global generator.

        Args:
            recipe: its network, optimizer, loss and averages are used.
            device: where to train.
            adapt: changes the new network and its u(sigma) in place, on the CPU, before anything is made of them;
                alike on all processes.
            how: as for `around`.
        """
        uncertainty = make_uncertainty(recipe.network.design, recipe.uncertainty_channels)
        denoiser = create(recipe)
        adapt(denoiser, uncertainty)
        return cls.around(denoiser, uncertainty, recipe, device, **how)

    @classmethod
    def around(
        cls,
        denoiser: Denoiser,
        uncertainty: nn.Module,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        *,
        world: World | None = None,
        execution: Execution | None = None,
        normalize_once: bool = False,
    ) -> "TrainState":
        """The state before the first step of training these two.

        Args:
            denoiser: the network; with several processes the same on all of them.
            uncertainty: u(sigma), likewise.
            recipe: its optimizer, loss and averages are used.
            device: where to train.
            world: the processes that train together; one by default.
            execution: how to carry it out: what it says of sharding, recomputing, compiling, kernels and averages.
            normalize_once: as the attribute.
        """
        world, execution = world or World(device=torch.device(device)), execution or Execution()
        denoiser = denoiser.to(device).train()
        uncertainty = uncertainty.to(device).train()
        if execution.kernels:
            fuse(denoiser)
        elif torch.device(device).type == "cpu" and not execution.compile:
            fuse_passes(denoiser)
        if execution.recompute:
            recompute_blocks(denoiser)
        if execution.compile:
            compile_blocks(denoiser)
        # Several processes send gradients of the first layers while the others are computed, if they come one by one.
        together = world.size == 1 and not execution.recompute
        objective = Objective(denoiser, uncertainty, recipe.loss, together)
        distributed = distribute(objective, world, blocks(denoiser) if execution.shard else None)
        adam = make_optimizer([*denoiser.parameters(), *uncertainty.parameters()], recipe)
        there = pick_device(execution.ema_device, "--ema-device") if execution.ema_device else None
        emas: list[PowerEMA | ExponentialEMA] = [PowerEMA(denoiser, length, device=there) for length in recipe.ema]
        if recipe.ema_half_life:
            emas.append(ExponentialEMA(denoiser, recipe.ema_half_life, device=there))
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
        image = torch.zeros(1, spec.channels, *spec.size, device=device)
        label = torch.zeros(1, dtype=torch.int64, device=device) if spec.label_dim else None
        label = placeholder(spec, label, 1, device)
        with accumulate(self.objective, last=True):
            self.objective(image, torch.ones(1, device=device), image, label).loss.sum().backward()
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
def restore(state: TrainState, tensors: dict[str, Tensor], nimg: int, averages: Sequence[Mapping[str, float]]) -> None:
    """Finish the loading of a checkpoint into the tensors that `state_tensors` gave of this state.

    Args:
        state: changed in place.
        tensors: as loaded.
        nimg: images seen.
        averages: the time `t` of each average.
    """
    for index, (ema, saved) in enumerate(zip(state.emas, averages, strict=True)):
        for name, own in ema.average.items():
            own.copy_(local(tensors[f"ema{index}.average.{name}"]))  # they lie elsewhere if averages do
        ema.t = float(saved["t"])
    state.nimg = nimg
