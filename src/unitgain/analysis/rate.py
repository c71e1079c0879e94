"""How fast this machine trains: operations per second of a training step, measured on a small network."""

import time

import torch
from torch import Tensor

from unitgain.analysis.cost import network_cost
from unitgain.analysis.counts import PASSES
from unitgain.arch import NetworkSpec
from unitgain.denoiser import Denoiser

CPU, GPU = (32, 8), (128, 64)  # base channels and images of a step
TURNS = 2  # at least, after the first, which sets libraries up


def training_rate(device: torch.device | str, dtype: torch.dtype = torch.float32, seconds: float = 1.0) -> float:
    """Operations per second of forward and backward passes, as `Cost.flops` counts them; the mean of some.

    A network of EDM2 with three levels at 32x32, of 32 channels on CPUs and 128 on GPUs. Others are faster or slower by
    this count (`benchmarks/recipe_times.py`): it says the order of what training takes.

    Args:
        device: where.
        dtype: in which the network computes.
        seconds: to measure for; the last step may end later.
    """
    device = torch.device(device)
    width, batch = CPU if device.type == "cpu" else GPU
    spec = NetworkSpec(
        resolution=32,
        channels=3,
        model_channels=width,
        channel_mult=(1, 2, 2),
        num_blocks=1,
        attn_resolutions=(8,),
        channels_per_head=width,
    )
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        denoiser = Denoiser(spec).to(device).train()
        denoiser.dtype = dtype
        x = torch.randn(batch, 3, 32, 32, device=device)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) <= TURNS or time.perf_counter() - began < seconds:
            times.append(_step(denoiser, x))
    return PASSES * batch * network_cost(spec).flops * len(times[1:]) / sum(times[1:])


def _step(denoiser: Denoiser, x: Tensor) -> float:
    """Seconds that one pass forward and backward takes."""
    began = time.perf_counter()
    (denoiser(x, 1.0) - x).square().mean().backward()
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - began
