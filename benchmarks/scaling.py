"""What training of every size costs on 8 to 1024 GPUs, on paper: writes docs/scaling.md.

Nothing here is measured on GPUs. Memory and messages are counted (`unitgain.analysis.scaling`, tested against what 2
and 4 processes hold and send); times follow from the rates below: the makers' figures and a guess at how much of them
is reached.
"""

from pathlib import Path

import torch

from unitgain.analysis.cost import network_cost, network_memory
from unitgain.analysis.scaling import Shapes, shapes_of, state_bytes, traffic, working_bytes
from unitgain.denoiser import Denoiser, make_uncertainty
from unitgain.files import write_text
from unitgain.recipe import Recipe
from unitgain.recipes import recipe
from unitgain.train.blocks import blocks

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
SIZES = ("s", "m", "l", "xl", "xxl")
GPUS = (8, 64, 256, 1024)
GB = 1e9
# Of an H100 SXM: 989 TFLOP/s in bfloat16, a multiply-add as two; 0.4 of it is a guess at what training reaches.
MULTIPLY_ADDS = 989e12 / 2 * 0.4
INSIDE, BETWEEN = 450 * GB, 50 * GB  # bytes/s each way: NVLink in a machine of 8; 400 Gbit/s per GPU between machines
INTRODUCTION = """\
# Scaling on paper

What a step costs each GPU, by size of EDM2 on ImageNet-512 latents, batch 2048, two averages. Nothing on this page was
measured on a GPU.

- **State**: weights, gradients, Adam, averages, in float32, and what FSDP2 gathers to work on; without activations.
- **Sent**: bytes each GPU sends per step in rings, one microbatch per GPU. With k microbatches FSDP2 gathers k times.
- **Compute**: forward and backward pass at 40 % (a guess) of the 989 TFLOP/s of an H100 in bfloat16.
- **Time** of messages if nothing else runs: at 450 GB/s in a machine of 8 (NVLink), at 50 GB/s per GPU between machines
  (400 Gbit/s). Both engines send while they compute, so a step takes about the larger of the two.

The formulas are in `unitgain.analysis.scaling`; `tests/distributed/test_scaling.py` holds them to what 2 and 4 CPU
processes hold and send, byte for byte, but for what FSDP2 gathers to work on, which is an estimate.
`python benchmarks/scaling.py` writes this page.

| recipe | GPUs | images each | compute, s | DDP state, GB | sent, GB | time, s | FSDP2 state, GB | sent, GB | time, s |
|---|---|---|---|---|---|---|---|---|---|"""
ACTIVATIONS = """
## Activations

Kept for the backward pass per image, in float32 (half of it in bfloat16), without `--recompute`:

| recipe | GB per image |
|---|---|"""
END = """
## What follows

The state of every size fits on one GPU of 80 GB under DDP; choose `--microbatch` so that the activations fit beside it.
FSDP2 is for smaller GPUs or larger networks; it sends one and a half times as much, and more with each further
microbatch. With few images per GPU messages take longer than computation: there, a larger batch is the remedy.
"""


def shapes(made: Recipe) -> Shapes:
    with torch.device("meta"):
        denoiser = Denoiser(made.network)
        module = torch.nn.ModuleList([denoiser, make_uncertainty(made.network.design, made.uncertainty_channels)])
    return shapes_of(module, blocks(denoiser))


def row(name: str, gpus: int) -> str:
    made = recipe(name)
    parts = shapes(made)
    images = made.batch // gpus
    bandwidth = INSIDE if gpus <= 8 else BETWEEN
    compute = 3 * network_cost(made.network).flops * images / MULTIPLY_ADDS
    cells = [f"{images}", f"{compute:.3g}"]
    for shard in (False, True):
        memory = state_bytes(parts, gpus, shard, len(made.ema)) + working_bytes(parts, shard)
        sent = traffic(parts, gpus, shard).sent(gpus)
        cells += [f"{memory / GB:.3g}", f"{sent / GB:.3g}", f"{sent / bandwidth:.2g}"]
    return f"| {name} | {gpus} | {' | '.join(cells)} |"


def page() -> str:
    costs = [row(f"edm2-img512-{size}", gpus) for size in SIZES for gpus in GPUS]
    kept = [network_memory(recipe(f"edm2-img512-{size}").network) / GB for size in SIZES]
    activations = [f"| edm2-img512-{size} | {gigabytes:.2f} |" for size, gigabytes in zip(SIZES, kept, strict=True)]
    return "\n".join([INTRODUCTION, *costs, ACTIVATIONS, *activations, END])


if __name__ == "__main__":
    write_text(PAGE, page())
