"""The denoiser D(x; sigma, label): preconditioning around a raw network (EDM2, Eqs. 4-8)."""

import hashlib
import math
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unitgain.arch import NetworkSpec, build
from unitgain.arch.embed import Fourier
from unitgain.arch.linear import PlainConv
from unitgain.arch.spec import Design
from unitgain.arch.values import Conditions, Told
from unitgain.classes import Classes
from unitgain.layers import MPConv, MPFourier
from unitgain.ops import over_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

ClassLabel = Int[Tensor, " labels"] | Float[Tensor, "labels label_dim"] | None
Label = ClassLabel | Conditions  # as many as images; checked by the denoiser


@runtime_checkable
class DenoiserLike(Protocol):
    """What samplers and guidance need of a denoiser: a call as that of `Denoiser`, and three attributes."""

    spec: NetworkSpec
    sigma_data: float
    encoder: dict[str, Any] | None

    def __call__(self, x: Tensor, sigma: Tensor | float, label: Label = None) -> Tensor:
        """Denoise."""
        ...


class Pictures:
    """What all denoisers make of their images."""

    def to_images(self, x: Float[Tensor, "n c h w"], vae: str | None = None) -> "list[Image]":
        """Images as the network sees them, `[N, C, H, W]`, as pictures of Pillow: `unitgain.to_images`, in short."""
        from unitgain.draw.images import to_images  # a shortcut, and the one import that points up

        return to_images(self, x, vae)  # type: ignore[arg-type]


class Denoiser(Pictures, nn.Module):
    """`denoiser(x, sigma, label) -> denoised`, the expected clean image given a noisy one (Eq. 4).

    Args:
        spec: the network.
        sigma_data: standard deviation of the training data; one value for loss, preconditioning and sampling.

    Attributes:
        network: the raw network F.
        dtype: precision in which the network computes (float32, bfloat16 or float16); parameters stay as they are,
            the embedding and the preconditioning stay in float32 (Appendix D.2).
        encoder: how images become what the network sees, as a snapshot's header has it; None where that is not known.
        label_dropout: share of images that it was trained on without their label; None where that is not known.
        classes: names of the classes, one for each of `spec.label_dim`; None where they are not known.
    """

    def __init__(self, spec: NetworkSpec, sigma_data: float = 0.5) -> None:
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, not {sigma_data}")
        self.spec = spec
        self.sigma_data = sigma_data
        self.dtype = torch.float32
        self.encoder: dict[str, Any] | None = None
        self.label_dropout: float | None = None
        self.classes: tuple[str, ...] | None = None
        self.network = build(spec)

    def forward(
        self, x: Float[Tensor, "n c *size"], sigma: Float[Tensor, "..."] | float, label: Label = None
    ) -> Float[Tensor, "n c *size"]:
        """Denoise.

        Args:
            x: noisy images `[N, C, *size]`, with as many sides as the network has; they need not be as long as its own.
            sigma: noise levels, `[N]` or a scalar, positive.
            label: classes as int64 `[N]`, or float `[N, label_dim]` (one-hot, or a mixture), or None for none (zeros);
                `Conditions` where there are others beside it.

        Returns:
            `c_skip x + c_out F(c_in x; c_noise, label)`, float32, shape of `x`.

        Raises:
            ValueError: if the shapes of `x`, `sigma` or `label` do not fit the network, or it knows no condition of a
                name; and, checked where it costs nothing, if a `sigma` that is no tensor is not positive, or on the CPU
                a class is out of range.
        """
        self._check_images(x)
        x = x.float()
        sigma = over_pixels(self._sigma(sigma, x), x)
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / variance.sqrt()
        c_in = 1 / variance.sqrt()
        c_noise = sigma.flatten().log() / 4
        condition = self.condition(label, len(x))
        condition = None if condition is None else condition.to(x.device)
        raw = self.network((c_in * x).to(self.dtype), c_noise, condition)
        return c_skip * x + c_out * raw.float()

    def condition(self, label: Label, batch: int) -> Told:
        """The label as the network takes it: float32 `[N, label_dim]`, or None where there is none; `Conditions` of it
        where the network has other conditions.
        """
        self.check_label(label, batch)
        if not isinstance(label, Conditions) and not self.spec.conditions:
            return None if label is None else self.shares(label)
        conditions = label if isinstance(label, Conditions) else Conditions(label)
        shares = None if conditions.label is None else self.shares(conditions.label)
        conditions = conditions.checked(self.spec, batch)
        return conditions.with_label(shares) if self.spec.conditions else shares

    def shares(self, label: Int[Tensor, " n"] | Float[Tensor, "n label_dim"]) -> Tensor:
        """The share of each class in the label, `[N, label_dim]`, float32."""
        if label.is_floating_point():
            return label.float()
        return torch.zeros(len(label), self.spec.label_dim, device=label.device).scatter_(1, label[:, None], 1.0)

    def check_label(self, label: Label, batch: int) -> None:
        """Raise `ValueError` unless there is one class, or mixture of classes, that the network knows per image."""
        label = label.label if isinstance(label, Conditions) else label
        if label is None:
            return
        classes = self.spec.label_dim
        if not classes:
            raise ValueError("this network is unconditional (label_dim=0): call it without a label")
        if label.is_floating_point():
            if label.shape != (batch, classes):
                raise ValueError(
                    f"label has shape {tuple(label.shape)}, expected {(batch, classes)} or int64 {(batch,)}"
                )
            return
        if label.shape != (batch,):
            raise ValueError(f"label has shape {tuple(label.shape)}, expected one class per image: {(batch,)}")
        if label.device.type == "cpu":  # elsewhere the check would wait for the device
            wrong = label[(label < 0) | (label >= classes)]
            if len(wrong):
                raise ValueError(
                    f"label {int(wrong[0])} is out of range: the network knows the classes 0 to {classes - 1}"
                )

    def _sigma(self, sigma: Tensor | float, x: Tensor) -> Tensor:
        if not isinstance(sigma, Tensor) and not sigma > 0:
            raise ValueError(f"sigma is {sigma}: noise levels are positive")
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        if sigma.ndim and sigma.numel() not in (1, len(x)):
            raise ValueError(f"sigma has shape {tuple(sigma.shape)}, expected a scalar or one per image: ({len(x)},)")
        return sigma.reshape(-1).expand(len(x))

    def _check_images(self, x: Tensor) -> None:
        # Convolutions take any size; only channels and dimensions are fixed.
        channels, size = self.spec.channels, self.spec.size
        if x.ndim != 2 + self.spec.dims or x.shape[1] != channels or not all(x.shape[2:]):
            expected = ", ".join(map(str, (channels, *size)))
            raise ValueError(f"x has shape {tuple(x.shape)}, expected [N, {expected}] (or other sides)")


def classes_of(denoiser: object) -> Classes:
    """The classes of a denoiser, with their names where it says them; of a function nothing is known."""
    if not isinstance(denoiser, DenoiserLike):
        return Classes(None)
    return Classes(denoiser.spec.label_dim, getattr(denoiser, "classes", None))  # someone else's may not say


def tile_size(denoiser: DenoiserLike, device: torch.device | str) -> int:
    """Images per evaluation of one network in `sample.generate`: a function of it and the kind of device alone.

    Libraries sum in another order at another batch size, so the number of images per evaluation must not depend on how
    many were asked for. Small networks get up to 64; one that fills the machine with a single image gets 1.
    """
    spec = denoiser.spec
    budget = 2**18 if torch.device(device).type == "cpu" else 2**23
    tile = budget // (math.prod(spec.level_sizes[0]) * spec.model_channels)
    return min(2 ** int(math.log2(tile)), 64) if tile else 1


class Uncertainty(nn.Module):
    """u(sigma), the log variance of the loss as a function of the noise level (Eq. 21).

    Args:
        channels: number of Fourier features.
        design: of the network beside it, as which u(sigma) is made (B.2): "adm" has a bias, "streamlined" none, the
            others a normalized weight.

    Trained beside the denoiser and discarded after training.
    """

    def __init__(self, channels: int = 128, design: Design = "magnitude-preserving") -> None:
        super().__init__()
        learned = PlainConv(channels, 1, bias=design == "adm") if design in ("adm", "streamlined") else None
        self.fourier = MPFourier(channels) if design == "magnitude-preserving" else Fourier(channels)
        self.linear = learned or MPConv(channels, 1)

    def forward(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """U at the noise levels `sigma`, `[N]`, float32."""
        return self.linear(self.fourier(sigma.log() / 4)).reshape(-1)


class NoUncertainty(nn.Module):
    """u(sigma) = 0, which makes Eq. 21 the plain loss of Eq. 14 (config A). Nothing to train."""

    def forward(self, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Zeros, `[N]`."""
        return torch.zeros_like(sigma)


def make_uncertainty(design: Design, channels: int) -> nn.Module:
    """The u(sigma) that goes with a network of this design; 0 channels for none."""
    return Uncertainty(channels, design) if channels else NoUncertainty()


def parameter_count(module: nn.Module) -> int:
    """Trainable parameters of `module`, tied ones once."""
    return sum(math.prod(parameter.shape) for parameter in module.parameters())


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of parameters and buffers in the order of their names, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
