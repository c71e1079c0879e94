"""Convolutions of training, layer by layer, and their gradients: `OMP_NUM_THREADS=1 python benchmarks/gradients.py`.

CPU seconds of one thread, so that neighbours on the machine disturb them little, of PyTorch's convolutions and of what
training takes in their place (`unitgain.train.convolutions`). Figures go to `results/gradients.*`; some minutes.
"""

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arguments import parse
from machine import write_results
from training_step import recipes
from unitgain.arch import NetworkSpec
from unitgain.denoiser import Denoiser
from unitgain.layers import MPConv
from unitgain.train.convolutions import BY_LIBRARY, Shape, ways
from unitgain.train.rules import network_for

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def networks(small: bool) -> dict[str, tuple[NetworkSpec, int]]:
    """Networks and the batch that they are trained with: those of `training_step.py`, and the smallest of plans."""
    found = {name: (recipe.network, recipe.batch) for name, recipe in recipes(small).items()}
    return found if small else {**found, "width 16": (network_for((3, 32, 32), 0, 16, 1, False), 32)}


@torch.no_grad()
def layers(spec: NetworkSpec, batch: int, dtype: torch.dtype) -> Counter[Shape]:
    """Distinct convolutions of a network, and how many there are of each."""
    found: Counter[Shape] = Counter()

    def note(layer: MPConv, given: tuple[Tensor, ...], _: Tensor) -> None:
        if layer.kernel:
            shape = Shape.of(given[0], layer.weight, layer.groups)
            found[shape._replace(images=batch, dtype=dtype)] += 1

    network = Denoiser(spec)
    for layer in network.modules():
        if isinstance(layer, MPConv):
            layer.register_forward_hook(note)  # type: ignore[arg-type]
    network(torch.zeros(1, spec.channels, *spec.size), 1.0)
    return found


def seconds(work: Callable[[], object], rounds: int) -> float:
    """CPU seconds, median."""
    work()
    taken = []
    for _ in range(rounds):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return statistics.median(taken)


def peak(dtype: torch.dtype, rounds: int, small: bool) -> float:
    """Multiply-accumulates per CPU second of a square matrix product."""
    size = 64 if small else 1536
    matrix = torch.randn(size, size).to(dtype)
    return size**3 / max(seconds(lambda: matrix @ matrix, rounds), 1e-9)


def measure(shape: Shape, rounds: int) -> dict[str, float]:
    """CPU seconds of the convolution and its gradients: by PyTorch, each and both at once, and as training does it."""
    x = images(shape, shape.inputs)
    gradient = images(shape, shape.outputs)
    weight = torch.randn(shape.outputs, shape.inputs // shape.groups, *shape.kernel)
    rounded = weight.to(shape.dtype)

    def backward(of_x: bool, of_weight: bool) -> object:
        sizes = [1, 1], shape.padding, [1, 1], False, [0, 0]
        mask = [of_x, of_weight, False]
        return torch.ops.aten.convolution_backward(gradient, x, rounded, None, *sizes, shape.groups, mask)

    found = {
        "forward": lambda: F.conv2d(x, rounded, padding=shape.padding, groups=shape.groups),
        "images": lambda: backward(True, False),
        "weight": lambda: backward(False, True),
        "both": lambda: backward(True, True),
    }
    taken = {name: seconds(work, rounds) for name, work in found.items()}
    by = ways(shape)
    if by == BY_LIBRARY:
        return {**taken, "here": taken["forward"] + taken["both"]}
    here = (
        lambda: by.output(x, rounded, shape),
        lambda: by.of_images(gradient, rounded, shape),
        lambda: by.of_weight(gradient, x, shape),
    )
    return {**taken, "here": sum(seconds(work, rounds) for work in here)}


def images(shape: Shape, channels: int) -> Tensor:
    """Random ones, channels-last."""
    x = torch.randn(shape.images, channels, *shape.sides).to(shape.dtype)
    return x.contiguous(memory_format=torch.channels_last)


def row(shape: Shape, count: int, taken: dict[str, float], rate: float) -> dict[str, Any]:
    """Figures of a layer; shares are of the peak."""
    work = shape.multiplications / rate
    kernel, (h, w) = "x".join(map(str, shape.kernel)), shape.sides
    groups = f", {shape.groups} groups" if shape.groups > 1 else ""
    name = f"{shape.inputs} to {shape.outputs}, {kernel}{groups}, at {h}x{w}"
    shares = {part: work / taken[part] for part in ("forward", "images", "weight")}
    return {"layer": name, "count": count, "seconds": taken, "share": {**shares, "both": 2 * work / taken["both"]}}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Layers with their shares of the peak, and milliseconds."""
    lines = [
        "| layer | times | forward | of images | of weight | both at once | PyTorch ms | here ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sums = [0.0, 0.0]
    for each in rows:
        taken, share = each["seconds"], [f"{100 * value:.0f}%" for value in each["share"].values()]
        times = [taken["forward"] + taken["both"], taken["here"]]
        sums = [total + each["count"] * one for total, one in zip(sums, times, strict=True)]
        cells = [each["layer"], str(each["count"]), *share, *(f"{1e3 * one:.2f}" for one in times)]
        lines.append(f"| {' | '.join(cells)} |")
    number = sum(each["count"] for each in rows)
    return [*lines, f"| all | {number} | | | | | {1e3 * sums[0]:.1f} | {1e3 * sums[1]:.1f} |"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parse(parser, arguments)
    rounds = 1 if options.small else options.rounds
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    lines = ["# Convolutions of training", "", (__doc__ or "").split("\n\n")[1].split("Figures")[0].replace("\n", " ")]
    lines += ["Percentages are those of the rate of a square matrix product, by PyTorch."]
    lines += [f"Load average as it began, of {os.cpu_count()} cores: {os.getloadavg()[0]:.1f}."]
    for dtype in DTYPES.values():
        rate = peak(dtype, rounds, options.small)
        for name, (spec, batch) in networks(options.small).items():
            title = f"{name}, batch {batch}, {str(dtype).removeprefix('torch.')}"
            measured = layers(spec, batch, dtype).items()
            rows = [row(shape, count, measure(shape, rounds), rate) for shape, count in measured]
            found[title] = {"peak": rate, "rows": rows}
            lines += ["", f"## {title}", "", f"Products: {rate / 1e9:.0f} G MACs/s.", "", *table(rows)]
            print(title, flush=True)
    write_results("gradients", found, "\n".join(lines), folder=options.folder)


if __name__ == "__main__":
    main()
