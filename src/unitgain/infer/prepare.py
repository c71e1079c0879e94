"""`prepare`: a denoiser for inference from a trained one."""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.unet import MPUNet, PlainUNet
from unitgain.arch.values import Conditions, Told, placeholder
from unitgain.denoiser import Denoiser, Label, tile_size
from unitgain.infer.backend import Backend
from unitgain.infer.fused import pays_to_filter
from unitgain.infer.graphs import Graphs
from unitgain.infer.kernels import Kernels
from unitgain.infer.layers import can_pack, freeze, multiplies_bfloat16, supported
from unitgain.infer.network import FoldedUNet
from unitgain.infer.passes import passes
from unitgain.kernels.fuse import has_depthwise
from unitgain.kernels.support import demand, no_depthwise
from unitgain.native import can_convolve_depthwise, can_pass
from unitgain.ops import without_autocast

TOGETHER = 8  # images that C convolves at a time, so that large weights are read once for them
PER_NETWORK = 8  # times that a network may be compiled, for batches and labels of different kinds: the limit of torch
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Prepared(Denoiser):
    """A denoiser that cannot be trained, made by `prepare`; called as any other.

    Args:
        original: what it was made from.
        network: the network, folded.
        dtype: in which the network computes; preconditioning and embedding are in float32.
        at_once: most images that it takes at a time, one after the other beyond: features of more would not stay in
            the caches of a processor. An image does not depend on how many tiles (`tile_size`) come with it. None for
            no limit, and without that promise.
        graphs: what records evaluations, and repeats them; None for running each.
        compiled: whether the network is, which then reads conditions at each noise level.
    """

    def __init__(
        self,
        original: Denoiser,
        network: nn.Module,
        dtype: torch.dtype,
        at_once: int | None = None,
        graphs: Graphs | None = None,
        compiled: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self.spec = original.spec
        self.sigma_data = original.sigma_data
        self.encoder = original.encoder
        self.label_dropout, self.classes = original.label_dropout, original.classes
        self.dtype = dtype
        self.at_once = at_once
        self.graphs = graphs
        self.network = network
        self.compiled = compiled
        self.takes_classes = isinstance(network, FoldedUNet)
        self.eval()

    @torch.no_grad()
    def forward(
        self, x: Float[Tensor, "n c *size"], sigma: Float[Tensor, "..."] | float, label: Label = None
    ) -> Float[Tensor, "n c *size"]:
        """Denoise, as `Denoiser.forward`; without gradients, in its own precision whatever `torch.autocast` says."""
        with without_autocast(x.device):
            return self._denoise(x, sigma, label)

    def _denoise(self, x: Tensor, sigma: Tensor | float, label: Label) -> Tensor:
        if self.graphs is not None:
            return self._repeat(self.graphs, x, sigma, label)
        if self.at_once is None or len(x) <= self.at_once:
            return super().forward(x, sigma, label)
        sigma = self._sigma(sigma, x)
        self.check_label(label, len(x))
        labels = itertools.repeat(label) if label is None or not len(label) else label.split(self.at_once)
        parts = zip(x.split(self.at_once), sigma.split(self.at_once), labels, strict=False)
        return torch.cat([super(Prepared, self).forward(*part) for part in parts])

    def _repeat(self, graphs: Graphs, x: Tensor, sigma: Tensor | float, label: Label) -> Tensor:
        """Denoise with a recording; what would wait for the device is done before."""
        self._check_images(x)
        self.check_label(label, len(x))
        if isinstance(label, Conditions):
            label = label.checked(self.spec, len(x)).label
        level = self._sigma(sigma, x) if isinstance(sigma, Tensor) else float(sigma)
        return graphs(super().forward, x, level, label)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Prepared":
        if self.graphs is not None:
            self.graphs.clear()  # they read the weights where those lay before
        return super()._apply(fn, recurse)

    def condition(self, label: Label, batch: int) -> Told:
        """As in `Denoiser`; of the same conditions the same, so that layers read them once for all noise levels."""
        if not isinstance(label, Conditions) or self.compiled or len(label) != batch:
            return super().condition(label, batch)
        told = label.once(self, lambda: super(Prepared, self).condition(label, batch))
        return told.keeping() if isinstance(told, Conditions) else told

    def shares(self, label: Tensor) -> Tensor:
        """Classes as they are, for a lookup; anything else as in `Denoiser`."""
        return label if self.takes_classes and not label.is_floating_point() else super().shares(label)

    def warm_up(self, batch: int = 1) -> "Prepared":
        """Run once with random numbers, which compiles, tunes and records for that batch; returns itself."""
        device = next(self.parameters()).device
        size = (batch, self.spec.channels, *self.spec.size)
        label = torch.zeros(batch, dtype=torch.int64, device=device) if self.spec.label_dim else None
        self(torch.randn(size, device=device), 1.0, placeholder(self.spec, label, batch, device))
        return self


def fastest_dtype(device: torch.device | str) -> torch.dtype:
    """The fastest precision that the hardware has.

    On GPUs bfloat16, or float16 before compute capability 8.0; on CPUs bfloat16 where they multiply it (AMX, AVX-512
    BF16, and Arm's where oneDNN says so), which not all do that oneDNN emulates it on; else float32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if supported(torch.bfloat16) and multiplies_bfloat16() else torch.float32
    return torch.float32


def fastest_precision(device: torch.device | str) -> Literal["float32", "bfloat16", "float16"]:
    """The name of `fastest_dtype`, as recipes have it."""
    best = fastest_dtype(device)
    return "bfloat16" if best == torch.bfloat16 else "float16" if best == torch.float16 else "float32"


def prepare(
    denoiser: Denoiser,
    dtype: torch.dtype | None = None,
    compile: bool | CompileMode = False,
    winograd: bool = True,
    kernels: bool = False,
    graph: bool = False,
) -> Prepared:
    """A denoiser that gives the same images faster; the original is not changed.

    Weights are normalized once rather than in every evaluation, with gains, the constants of mp_silu, mp_sum and mp_cat
    folded into them wherever that is exact; labels are looked up; all modulations are one product; images and volumes
    are channels-last. On CPUs, with images: a depthwise convolution takes in what comes before and after it, 3x3
    convolutions are made by Winograd's filtering, 1x1 convolutions in bfloat16 keep their sums in registers until all
    is done with them, and attention and what is between convolutions take a pass over memory each (`unitgain.native`).
    Where the network computes in bfloat16, the sums of blocks are kept in float32, or in float16 where it preserves
    magnitudes and C makes them. Configs A-E have their weights normalized once, in `dtype`, and nothing else.

    Args:
        denoiser: trained, on the device where it will run; its own `dtype` is not looked at.
        dtype: float32, bfloat16 or float16; by default the fastest that the device has (`fastest_dtype`).
        compile: compile the network (`torch.compile`), which takes from seconds to minutes at the first call of each
            batch size. True is "default"; on GPUs "reduce-overhead" and "max-autotune" use CUDA graphs.
        winograd: filter 3x3 convolutions where that is faster: on CPUs, without compilation, with images of 8x8 or
            more; in bfloat16 with products of 16-bit integers, where the processor has VNNI and no AMX. Weights
            then take 1.8 to 4 times the memory, more where outputs are no multiple of 64.
        kernels: run depthwise convolutions, with the modulation and the `silu` before them, on the Triton kernels
            (`unitgain.kernels`), on GPUs. For EDM2+ only. Off by default because nobody has measured it: no GPU has run
            it yet. Goes with `compile`, which fuses the rest.
        graph: record a CUDA graph for each shape of `x` when it first occurs, and replay it afterwards, without
            compiling; saves the time that the processor takes to start one operation after the other, which small
            batches wait for. Not with `compile`. Off by default for the same reason.

    Raises:
        ValueError: if `dtype` is none of the three, the denoiser is prepared already, or the network or its device is
            none for the options.
        ImportError: if `kernels` are asked for and Triton is not installed.
    """
    device = next(denoiser.parameters()).device
    dtype = fastest_dtype(device) if dtype is None else dtype
    _check_options(denoiser, device, dtype, compile, kernels, graph)
    network = denoiser.network
    at_once = tile_size(denoiser, device) if device.type == "cpu" and not compile else None
    with torch.no_grad():
        if isinstance(network, MPUNet | PlainUNet):
            eager = device.type == "cpu" and not (compile or kernels) and denoiser.spec.dims == 2
            backend = _backend(isinstance(network, MPUNet), dtype, eager, winograd, kernels)
            folded: nn.Module = FoldedUNet(network, denoiser.spec, backend, at_once)
            if folded.at_once is not None:
                at_once = max(TOGETHER // folded.at_once, 1) * folded.at_once
            if eager and can_pack(dtype):
                folded.pack(denoiser.spec)
        else:
            folded = freeze(network, dtype)
    prepared = Prepared(denoiser, folded.eval(), dtype, at_once, Graphs() if graph else None, compiled=bool(compile))
    if compile:
        _make_room()
        folded.compile(dynamic=False, **_options(device, compile))
    return prepared


def _backend(preserving: bool, dtype: torch.dtype, eager: bool, winograd: bool, kernels: bool) -> Backend:
    """What runs the blocks: C for `eager` evaluations on a CPU that has it."""
    if eager and can_convolve_depthwise(dtype) and can_pass(dtype):
        return passes(dtype, preserving, winograd and pays_to_filter(dtype))
    sums = torch.float32 if dtype == torch.bfloat16 else dtype
    return Kernels(dtype, sums) if kernels else Backend(dtype, sums)


def _make_room() -> None:
    """Let one more network be compiled: all share a function, which torch compiles so often and then runs as it is."""
    from torch._dynamo import config

    config.recompile_limit += PER_NETWORK
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, config.recompile_limit)


def _check_options(
    denoiser: Denoiser,
    device: torch.device,
    dtype: torch.dtype,
    compile: bool | CompileMode,
    kernels: bool,
    graph: bool,
) -> None:
    if isinstance(denoiser, Prepared):
        raise ValueError("this denoiser is prepared already: prepare the one that it was made from")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, not {dtype}")
    if kernels:
        demand(device, dtype)
        if not has_depthwise(denoiser.network):
            raise no_depthwise(f"this network of design {denoiser.spec.design!r}")
    if graph and compile:
        raise ValueError("graph=True and compile exclude each other: compile='reduce-overhead' uses CUDA graphs itself")
    if graph and denoiser.spec.conditions:
        raise ValueError("graph=True records labels alone, and this network has other conditions: leave it out")
    if graph and device.type != "cuda":
        raise ValueError(f"graph=True records CUDA graphs, and this network is on {device}: move it to a GPU first")


def _options(device: torch.device, compile: bool | CompileMode) -> dict[str, object]:
    if isinstance(compile, str) and compile != "default":
        return {"mode": compile}
    # On CPUs, weights that are known to be final are laid out once, as `FoldedConv.pack` does without compilation.
    return {"options": {"freezing": True}} if device.type == "cpu" else {}
