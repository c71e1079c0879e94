"""Classifier-free guidance against a guide of its own, on the digits and on Fashion-MNIST at 16x16.

    python benchmarks/evidence/label_dropout.py --folder runs/evidence --out runs/label-dropout

Three networks for each set: `plain`; `dropped`, the same trained with label dropout 0.1, which guides itself; and
`guide`, unconditional, half as wide and trained for half as long, which guides `plain`. Images are judged by the
Frechet distance to real ones, and by how many of them a classifier names as the class asked for: the digits in pixels
and by a support vector machine, Fashion-MNIST in the features of a classifier of its own, and by it.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from judges import open_classifier
from sets import open_set
from torch import Tensor

from unitgain.bench.measure import machine
from unitgain.data.dataset import ArrayDataset
from unitgain.data.digits import digits
from unitgain.demo import Classifier
from unitgain.draw import DrawSettings, decoder, draw_images, guide_by, open_network
from unitgain.files import write_text
from unitgain.metrics.frechet import frechet_distance, statistics
from unitgain.recipe import Recipe
from unitgain.recipes import DIGITS
from unitgain.sample import SAMPLERS
from unitgain.train import TrainConfig, train

DROPOUT = 0.1
LENGTH = "0.100"
WEIGHTS = (1.25, 1.5, 2.0)
IMAGES = {"digits": 512, "fashion16": 1000}
SETTINGS = DrawSettings(sampler=SAMPLERS["dpmpp_2m"](), steps=10, sigma_min=0.02, sigma_max=30)
RESULTS = Path(__file__).parents[1] / "results" / "label_dropout"
Judged = Callable[[Tensor, Tensor], tuple[float, float]]


def recipes(name: str) -> dict[str, Recipe]:
    """The three networks of a set."""
    network = DIGITS.network
    if name == "fashion16":
        network = network.replace(resolution=16, model_channels=16, channels_per_head=16)
    plain = DIGITS.replace(name=f"{name}-plain", network=network, snapshot_every=DIGITS.duration // 8)
    half = network.replace(model_channels=network.model_channels // 2, channels_per_head=8, label_dim=0)
    return {
        "plain": plain,
        "dropped": plain.replace(name=f"{name}-dropped", label_dropout=DROPOUT),
        "guide": plain.replace(name=f"{name}-guide", network=half, duration=plain.duration // 2),
    }


def trained(recipe: Recipe, out: Path, dataset: ArrayDataset) -> Path:
    """The average of a network, which is trained where it is not there."""
    config = TrainConfig(recipe=recipe, data=dataset.name, checkpoint_every=recipe.duration)
    train(config, out, dataset, resume=out.exists(), tensorboard=False, quiet=True)
    return out / "snapshots" / f"{recipe.duration:010d}-{LENGTH}.safetensors"


def judge_digits(dataset: ArrayDataset) -> Judged:
    """In standardized pixels, and by a support vector machine."""
    classifier = Classifier(dataset)
    real = statistics(classifier.features(dataset.images))

    def judged(pixels: Tensor, labels: Tensor) -> tuple[float, float]:
        fd = frechet_distance(*statistics(classifier.features(pixels)), *real)
        return fd, float((classifier.names(pixels) == labels.numpy()).mean())

    return judged


def judge_fashion(dataset: ArrayDataset, test: ArrayDataset, folder: Path) -> Judged:
    """In the features of a classifier of the training split, against the test split."""
    classifier, _ = open_classifier(dataset, folder)
    real = statistics(classifier.features(test.images).double().numpy())

    def judged(pixels: Tensor, labels: Tensor) -> tuple[float, float]:
        fd = frechet_distance(*statistics(classifier.features(pixels).double().numpy()), *real)
        return fd, float((classifier(pixels).argmax(1) == labels).float().mean())

    return judged


def measured(name: str, folder: Path, out: Path) -> dict[str, Any]:
    """All of a set, as JSON values."""
    if name == "digits":
        dataset = digits()
        judge = judge_digits(dataset)
    else:
        dataset, test = open_set(name, folder / "data")
        judge = judge_fashion(dataset, test, folder)
    paths = {part: trained(recipe, out / name / part, dataset) for part, recipe in recipes(name).items()}
    networks = {part: open_network(str(path)) for part, path in paths.items()}
    decode = decoder(networks["plain"].encoder, 1)
    rows = []
    cells = [("plain", None, 1.0), ("dropped", None, 1.0)]
    cells += [cell for w in WEIGHTS for cell in (("plain", "guide", w), ("dropped", None, w))]
    for main, guide, weight in cells:
        settings = SETTINGS.replace(guidance=weight)
        denoiser = guide_by(networks[main], networks[guide] if guide else None, settings)
        parts = list(draw_images(denoiser, decode, range(IMAGES[name]), settings))
        labels = torch.cat([label for _, label, _ in parts if label is not None])
        fd, accuracy = judge(torch.cat([images for _, _, images in parts]), labels)
        rows.append({"network": main, "guide": guide, "weight": weight, "fd": fd, "accuracy": accuracy})
        print(name, rows[-1], flush=True)
    return {"images": IMAGES[name], "label_dropout": DROPOUT, "rows": rows}


def page(results: dict[str, Any]) -> str:
    """The results as text."""
    lines = [
        "# Label dropout: classifier-free guidance against a guide of its own",
        "",
        "Frechet distance to real images (lower is better), and the share of images that a classifier names as the "
        "class asked for. One run each, the same seeds in every cell.",
    ]
    for name, found in results.items():
        table = {(row["network"], row["weight"]): row for row in found["rows"]}
        lines += [
            "",
            f"## {name}: {found['images']} images a cell",
            "",
            "| w | `plain`, guided by an unconditional network | `dropped`, guided by itself |",
            "|---|---|---|",
        ]
        for weight in (1.0, *WEIGHTS):
            cells = [table[part, weight] for part in ("plain", "dropped")]
            texts = [f"{cell['fd']:.3f}, {100 * cell['accuracy']:.1f} %" for cell in cells]
            lines.append(f"| {weight:g} | {' | '.join(texts)} |")
    where = ", ".join(f"{key} {value}" for key, value in machine("cpu").items())
    return "\n".join([*lines, "", f"Measured by `benchmarks/evidence/label_dropout.py` on: {where}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of the evidence, with its data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("sets", nargs="*", help="measure these alone, and leave the page; all by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.sets or IMAGES:
        path = args.out / f"{name}.json"
        if not path.exists():
            found = measured(name, args.folder, args.out)
            write_text(path, json.dumps(found, indent=1) + "\n")
    if not args.sets:
        results = {name: json.loads((args.out / f"{name}.json").read_text()) for name in IMAGES}
        write_text(RESULTS.with_suffix(".json"), json.dumps({"machine": machine("cpu"), **results}, indent=1) + "\n")
        write_text(RESULTS.with_suffix(".md"), page(results))


if __name__ == "__main__":
    main()
