"""The state of a training run, and one step of it (EDM2, Sections 2.3 and 3, Appendix D.2)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.denoiser import Denoiser, Label, make_uncertainty
from unitgain.ema import ExponentialEMA, PowerEMA
from unitgain.layers import project_weights
from unitgain.loss import EDMLoss
from unitgain.recipe import Recipe
from unitgain.recipes import create


@dataclass(kw_only=True)
class TrainState:
    """Everything that changes while training; saved whole in checkpoints.

    Attributes:
        denoiser: the network in training, float32 parameters.
        uncertainty: u(sigma), trained beside it; without parameters where the recipe has none.
        optimizer: Adam over the parameters of both.
        emas: averages of the denoiser, one per length of the recipe, the exponential one last.
        nimg: images seen.
    """

    denoiser: Denoiser
    uncertainty: nn.Module
    optimizer: torch.optim.Optimizer
    emas: list[PowerEMA | ExponentialEMA]
    nimg: int = 0

    @classmethod
    def start(cls, recipe: Recipe, device: torch.device | str = "cpu") -> "TrainState":
        """The state before the first step, initialized from torch's global generator."""
        uncertainty = make_uncertainty(recipe.network.design, recipe.uncertainty_channels)
        return cls.around(create(recipe), uncertainty, recipe, device)

    @classmethod
    def around(
        cls, denoiser: Denoiser, uncertainty: nn.Module, recipe: Recipe, device: torch.device | str = "cpu"
    ) -> "TrainState":
        """The state before the first step of training these two."""
        denoiser = denoiser.to(device).train()
        uncertainty = uncertainty.to(device).train()
        parameters = [*denoiser.parameters(), *uncertainty.parameters()]
        adam = torch.optim.Adam(
            parameters, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=True
        )
        emas: list[PowerEMA | ExponentialEMA] = [PowerEMA(denoiser, sigma_rel) for sigma_rel in recipe.ema]
        if recipe.ema_half_life:
            emas.append(ExponentialEMA(denoiser, recipe.ema_half_life))
        return cls(denoiser=denoiser, uncertainty=uncertainty, optimizer=adam, emas=emas)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.denoiser.parameters()).device

    @property
    def modules(self) -> nn.ModuleDict:
        """Both networks; parameter names (`denoiser.*`, `uncertainty.*`) are those of checkpoints and messages."""
        return nn.ModuleDict({"denoiser": self.denoiser, "uncertainty": self.uncertainty})


@dataclass(frozen=True, kw_only=True)
class Microbatch:
    """Images of one forward and backward pass, with the random draws that go with them.

    Attributes:
        clean: images `[n, C, H, W]`, float32.
        sigma: noise levels `[n]`.
        noise: unit noise, shape of `clean`.
        label: as the denoiser takes it.
    """

    clean: Float[Tensor, "n c h w"]
    sigma: Float[Tensor, " n"]
    noise: Float[Tensor, "n c h w"]
    label: Label = None


@dataclass(frozen=True)
class StepReport:
    """What one step has to say.

    Attributes:
        loss: mean over the batch and the pixels of Eq. 21, before the step; a scalar on the device, not synchronized.
        lr: learning rate used.
        nonfinite: number of non-finite gradient values by parameter name; empty in a healthy step.
    """

    loss: Tensor
    lr: float
    nonfinite: dict[str, int] = field(default_factory=dict)


def train_step(state: TrainState, recipe: Recipe, microbatches: Iterable[Microbatch]) -> StepReport:
    """One training step, in the order that keeps the numbers of the official implementation.

    1. Project the weights onto their spheres, if the recipe forces their norm (Eq. 66).
    2. Forward, loss (sum over pixels, mean over the batch) and backward for each microbatch.
    3. Count non-finite gradients and replace them with 0 (Appendix D.2).
    4. Adam, with the learning rate of the images seen before the step (Eq. 67).
    5. Advance the images seen and update the averages.

    Args:
        state: changed in place.
        recipe: its loss and learning rate are used.
        microbatches: the parts of the batch, `recipe.batch` images in all; each is taken when the one before is done,
            so an iterator may seed the global generator for its dropout.
    """
    loss_function = EDMLoss(recipe.P_mean, recipe.P_std)
    batch = recipe.batch
    modules = state.modules
    if recipe.forced_normalization:
        project_weights(modules)
    total = torch.zeros((), device=state.device)
    for microbatch in microbatches:
        loss = loss_function(
            state.denoiser, state.uncertainty, microbatch.clean, microbatch.sigma, microbatch.noise, microbatch.label
        )
        (loss.sum() * (recipe.loss_scaling / batch)).backward()
        total += loss.detach().mean() * (len(microbatch.clean) / batch)
    nonfinite = replace_nonfinite(modules)
    lr = recipe.learning_rate(state.nimg)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.nimg += batch
    for ema in state.emas:
        ema.update(t=state.nimg, dt=batch)
    return StepReport(total, lr, nonfinite)


@torch.no_grad()
def replace_nonfinite(module: nn.Module) -> dict[str, int]:
    """Replace NaN and infinite gradient values with 0, and count them by parameter (Appendix D.2)."""
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    norms = torch._foreach_norm(list(gradients.values()), ord=float("inf"))
    if torch.isfinite(torch.stack(norms)).all():  # the usual case: one look at the device per step
        return {}
    counts = {}
    for name, gradient in gradients.items():
        if count := int((~torch.isfinite(gradient)).sum()):
            counts[name] = count
            gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return counts


def state_tensors(state: TrainState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as flat tensors and JSON values; the tensors are the state's own, not copies."""
    modules = state.modules
    tensors = {f"model.{name}": tensor for name, tensor in modules.state_dict().items()}
    for name, parameter in modules.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = value
    for index, ema in enumerate(state.emas):
        saved = ema.state_dict()
        for part in ("average", "buffers"):
            tensors |= {f"ema{index}.{part}.{name}": tensor for name, tensor in saved[part].items()}
    values = {"nimg": state.nimg, "ema": [{"t": ema.t} for ema in state.emas]}
    return tensors, values


@torch.no_grad()
def restore(state: TrainState, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Inverse of `state_tensors`, into a state made for the same recipe.

    Raises:
        ValueError: if names or shapes are not those of the state.
    """
    modules = state.modules
    try:
        modules.load_state_dict(_under(tensors, "model."))
    except RuntimeError as error:
        raise ValueError(f"the checkpoint holds another network: {error}") from error
    slots = {
        index: moments
        for index, (name, _) in enumerate(modules.named_parameters())
        if (moments := _under(tensors, f"optimizer.{name}."))
    }
    state.optimizer.load_state_dict({"state": slots, "param_groups": state.optimizer.state_dict()["param_groups"]})
    for index, (ema, saved) in enumerate(zip(state.emas, values["ema"], strict=True)):
        parts = {part: _under(tensors, f"ema{index}.{part}.") for part in ("average", "buffers")}
        ema.load_state_dict({"t": saved["t"], **parts})
    state.nimg = values["nimg"]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
