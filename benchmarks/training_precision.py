"""What bfloat16 costs in training: `OMP_NUM_THREADS=1 python benchmarks/training_precision.py [--data FOLDER]`.

Networks and recipes of plans (`unitgain.train.rules`), at small widths, each trained twice with the same seeds: in
float32 and in bfloat16. Their averages of one length draw, in float32, images of the same seeds, whose Frechet distance
to the data is measured in pixels reduced to 8x8. Seeds show how far apart equals are. Figures go to
`results/training_precision.*`, after each part, and what is there is not measured again; minutes for each training.
"""

import argparse
import itertools
import statistics as numbers
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arguments import parse
from machine import in_parts
from unitgain.data.dataset import Dataset
from unitgain.data.named import DIGITS, open_data
from unitgain.hub import load
from unitgain.metrics.frechet import frechet_distance, statistics
from unitgain.posthoc import reconstruct
from unitgain.sample import generate, sigma_grid
from unitgain.train import TrainConfig, train
from unitgain.train.ladder import normalization
from unitgain.train.rules import network_for, recipe_for

PRECISIONS = ("float32", "bfloat16")
LENGTH, SIDE = 0.10, 8


def features(images: Tensor) -> np.ndarray:
    """Of 8-bit images: pixels of a smaller image, in units of the noise levels."""
    return F.adaptive_avg_pool2d(images.float() / 127.5 - 1, SIDE).flatten(1).double().numpy()


def measure(dataset: Dataset, width: int, seed: int, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train, average, draw, and measure the distance; with the CPU seconds that training took."""
    images = args.images if dataset.name == DIGITS else args.data_images
    network = network_for(dataset.shape, dataset.label_dim, width, 1, depthwise=False)
    batch = 64 if dataset.name == DIGITS else 32
    recipe = recipe_for(network, images, precision=precision, batch=batch)  # type: ignore[arg-type]
    config = TrainConfig(recipe=recipe, data=dataset.name, seed=seed, normalize=normalization(dataset))
    dataset = open_data(dataset.name, config.normalize)
    real = statistics(features(dataset.rows(np.arange(len(dataset)))[0]))
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        train(config, Path(folder) / "run", dataset, quiet=True, tensorboard=False)
        seconds = time.process_time() - began
        (average,) = reconstruct(Path(folder) / "run", [LENGTH], Path(folder) / "ema")
        denoiser = load(average.path)
    denoiser.dtype = torch.float32
    drawn = [
        dataset.encoder.decode(each) for _, _, each in generate(denoiser, range(args.drawn), sigma_grid(args.steps))
    ]
    distance = frechet_distance(*statistics(features(torch.cat(drawn))), *real)
    return {"distance": distance, "seconds": seconds}


def page(found: dict[str, Any]) -> str:
    """What there is, as a page."""
    settings = found["settings"]
    lines = [
        "# Training in bfloat16",
        "",
        *(__doc__ or "").partition("\n\n")[2].partition(" Figures go")[0].splitlines(),
        f"{settings['images']:,} images of the digits, {settings['data_images']:,} of the other data; "
        f"{settings['drawn']} drawn in {settings['steps']} steps, averages of length {LENGTH}; one thread, processor "
        "seconds beside other work.",
        "",
        "| data | width | seed | float32 | bfloat16 | difference | seconds | in bfloat16 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    parts = [name for name in found if name not in ("settings", "machine")]
    for case in dict.fromkeys(name.rpartition(" ")[0] for name in parts):
        pair = [found.get(f"{case} {precision}") for precision in PRECISIONS]
        if all(pair):
            exact, rough = (each["distance"] for each in pair)
            taken = " | ".join(f"{each['seconds']:.0f}" for each in pair)
            cells = case.replace(", ", " | ")
            lines.append(f"| {cells} | {exact:.4f} | {rough:.4f} | {rough / exact - 1:+.1%} | {taken} |")
    for case in dict.fromkeys(name.rpartition(", ")[0] for name in parts):
        of = {p: [v["distance"] for n, v in found.items() if n.startswith(case) and n.endswith(p)] for p in PRECISIONS}
        if min(map(len, of.values())) > 1:
            exact, rough = (numbers.mean(of[precision]) for precision in PRECISIONS)
            apart = numbers.stdev(of["float32"]) / exact
            lines += ["", f"{case}: bfloat16 {rough / exact - 1:+.1%} on average; seeds {apart:.1%} apart in float32."]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", nargs="*", default=[], help="folders of prepared data, such as the sprites' (examples)"
    )
    parser.add_argument("--widths", nargs="*", type=int, default=[16, 32], help="for the digits; the least for others")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=19200, help="that the digits are trained on")
    parser.add_argument("--data-images", type=int, default=6400, help="that other data are")
    parser.add_argument("--drawn", type=int, default=500, help="images drawn for each distance")
    parser.add_argument("--steps", type=int, default=8, help="of Heun's method")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    args = parse(parser, arguments)
    if args.small:
        args.widths, args.seeds, args.images, args.data_images, args.drawn, args.steps = [16], 1, 128, 64, 8, 2
    torch.set_num_threads(1)
    cases = [(DIGITS, width) for width in args.widths] + [(data, min(args.widths)) for data in args.data]
    parts = {}
    for (data, width), seed, precision in itertools.product(cases, range(args.seeds), PRECISIONS):
        dataset = open_data(data)
        name = f"{Path(data).name}, {width}, {seed} {precision}"
        parts[name] = lambda d=dataset, w=width, s=seed, p=precision: measure(d, w, s, p, args)
    settings = {name: getattr(args, name) for name in ("images", "data_images", "drawn", "steps")}
    print(page(in_parts("training_precision", parts, page, settings=settings, fresh=args.fresh, folder=args.folder)))


if __name__ == "__main__":
    main()
