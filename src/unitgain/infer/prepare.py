"""`prepare`: a denoiser for inference from a trained one."""

from contextlib import nullcontext
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.unet import MPUNet, PlainUNet
from unitgain.denoiser import Denoiser, Label
from unitgain.infer.heap import apart
from unitgain.infer.layers import can_pack, supported
from unitgain.infer.network import FoldedUNet, freeze
from unitgain.native import can_convolve
from unitgain.sample.tiles import tile_size

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Prepared(Denoiser):
    """A denoiser that cannot be trained, made by `prepare`; called as any other.

    Args:
        original: what it was made from.
        network: the network, folded.
        dtype: in which the network computes; preconditioning and embedding are in float32.
        at_once: most images that it takes at a time, one after the other beyond: features of more would not stay in
            the caches of a processor. None for no limit.
    """

    def __init__(self, original: Denoiser, network: nn.Module, dtype: torch.dtype, at_once: int | None = None) -> None:
        nn.Module.__init__(self)
        self.spec = original.spec
        self.sigma_data = original.sigma_data
        self.encoder = original.encoder
        self.dtype = dtype
        self.at_once = at_once
        self.network = network
        self.takes_classes = isinstance(network, FoldedUNet)
        self.eval()

    @torch.no_grad()
    def forward(
        self, x: Float[Tensor, "n c h w"], sigma: Float[Tensor, "..."] | float, label: Label = None
    ) -> Float[Tensor, "n c h w"]:
        """Denoise, as `Denoiser.forward`; without gradients."""
        if self.at_once is None or len(x) <= self.at_once:
            return super().forward(x, sigma, label)
        sigma = self._sigma(sigma, x)
        if label is not None:
            self.check_label(label, len(x))
        labels = [None] * len(x) if label is None else label.split(self.at_once)
        parts = zip(x.split(self.at_once), sigma.split(self.at_once), labels, strict=False)
        return torch.cat([super(Prepared, self).forward(*part) for part in parts])

    def condition(self, label: Label, batch: int) -> Tensor | None:
        """Classes as they are, for a lookup; anything else as in `Denoiser`."""
        if self.takes_classes and label is not None and not label.is_floating_point():
            self.check_label(label, batch)
            return label
        return super().condition(label, batch)

    def warm_up(self, batch: int = 1) -> "Prepared":
        """Run once with random numbers, which compiles what is to be compiled for that batch; returns itself."""
        device = next(self.parameters()).device
        size = (batch, self.spec.channels, self.spec.resolution, self.spec.resolution)
        label = torch.zeros(batch, dtype=torch.int64, device=device) if self.spec.label_dim else None
        self(torch.randn(size, device=device), 1.0, label)
        return self


def fastest_dtype(device: torch.device | str) -> torch.dtype:
    """The fastest precision that the hardware has: bfloat16 with tensor cores, AMX or AVX-512 BF16, else float32."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if supported(torch.bfloat16) else torch.float32
    return torch.float32


def prepare(denoiser: Denoiser, dtype: torch.dtype | None = None, compile: bool | CompileMode = False) -> Prepared:
    """A denoiser that gives the same images faster; the original is not changed.

    Weights are normalized once rather than in every evaluation, with gains, the constants of mp_silu, mp_sum and mp_cat
    folded into them wherever that is exact; labels are looked up; all modulations are one product; everything is
    channels-last; on CPUs a depthwise convolution takes in what comes before it (`unitgain.native`). The sums of blocks
    are kept in float32 where the network computes in bfloat16. Rungs A-E have their weights normalized once, in
    `dtype`, and nothing else.

    Args:
        denoiser: trained, on the device where it will run; its own `dtype` is not looked at.
        dtype: float32, bfloat16 or float16; by default the fastest that the device has (`fastest_dtype`).
        compile: compile the network (`torch.compile`), which takes from seconds to minutes at the first call of each
            batch size. True is "default"; on GPUs "reduce-overhead" and "max-autotune" use CUDA graphs.

    Raises:
        ValueError: if `dtype` is none of the three, or the denoiser is prepared already.
    """
    if isinstance(denoiser, Prepared):
        raise ValueError("this denoiser is prepared already: prepare the one that it was made from")
    device = next(denoiser.parameters()).device
    dtype = fastest_dtype(device) if dtype is None else dtype
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, not {dtype}")
    network = denoiser.network
    with torch.no_grad(), apart() if device.type == "cpu" else nullcontext():
        if isinstance(network, MPUNet | PlainUNet):
            eager = device.type == "cpu" and not compile
            made: nn.Module = FoldedUNet(network, denoiser.spec, dtype, fused=eager and can_convolve(dtype))
            if eager and can_pack(dtype):
                made.pack(denoiser.spec)
        else:
            made = freeze(network, dtype)
    at_once = tile_size(denoiser, device) if device.type == "cpu" and not compile else None
    prepared = Prepared(denoiser, made.eval(), dtype, at_once)
    if compile:
        made.compile(dynamic=False, **_options(device, compile))
    return prepared


def _options(device: torch.device, compile: bool | CompileMode) -> dict[str, object]:
    if isinstance(compile, str) and compile != "default":
        return {"mode": compile}
    # On CPUs, weights that are known to be final are laid out once, as `FoldedConv.pack` does without compilation.
    return {"options": {"freezing": True}} if device.type == "cpu" else {}
