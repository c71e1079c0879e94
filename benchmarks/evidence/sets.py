"""The images: Fashion-MNIST from a Debian package, emoji from npm packages; split into training and test.

    python benchmarks/evidence/sets.py --folder runs/evidence/data     # fetch them, and say what is there

Nothing is installed: `apt-get download` and `npm pack` need no root, and `dpkg -x` only unpacks.
"""

import argparse
import functools
import gzip
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from unitgain.data.dataset import ArrayDataset
from unitgain.data.encoder import PixelEncoder

FASHION = "dataset-fashion-mnist"
FASHION_CLASSES = (
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
EMOJI = "emoji-datasource-google@16.0.0"
EMOJI_CLASSES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
EVERY = 10  # emoji of which the last is for test
EVERY_DRAWING = 11  # drawings of emoji in styles, likewise: no multiple of the styles

STYLES = {  # name: npm package, where its pictures lie
    "Noto": (EMOJI, "package/img/google/64/{}.png"),
    "Twemoji": ("emoji-datasource-twitter@16.0.0", "package/img/twitter/64/{}.png"),
    "EmojiOne": ("emojione@2.2.7", "package/assets/png_128x128/{}.png"),
    "Fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "package/assets/{}.webp"),
}


class Split(NamedTuple):
    """Training images or test images.

    Attributes:
        images: uint8 `[N, C, H, W]`.
        labels: int64 `[N]`.
        styles: number of the style of each, int64 `[N]`; none where there is one style.
    """

    images: Tensor
    labels: Tensor
    styles: Tensor = torch.empty(0, dtype=torch.int64)


Made = tuple[Split, Split, Sequence[str]]  # training, test, names of the classes


@dataclass(frozen=True)
class ImageSet:
    """A set.

    Attributes:
        make: from packages in a folder.
        channels: of its images.
        label_dim: number of its classes.
        styled: whether the style of a drawing is known, as the condition `style`: one-hot, of `STYLES`.
    """

    make: Callable[[Path], Made]
    channels: int
    label_dim: int
    styled: bool = False


def open_set(name: str, folder: Path) -> tuple[ArrayDataset, ArrayDataset]:
    """Training and test split of a set; fetched where it is not there.

    Args:
        name: of `SETS`.
        folder: keeps the packages, and the sets as they are used.

    Raises:
        FileNotFoundError: if the program that fetches the package is missing.
        subprocess.CalledProcessError: if it fails.
        ValueError: if the packages have other classes than are expected.
    """
    path = folder / f"{name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        *splits, classes = SETS[name].make(folder)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, *(part.numpy() for split in splits for part in split), classes=np.array(classes))
        partial.rename(path)
    with np.load(path) as arrays:
        classes = tuple(arrays["classes"].tolist())
        parts = [torch.from_numpy(arrays[f"arr_{number}"]) for number in range(6)]
    if len(classes) != SETS[name].label_dim:
        raise ValueError(f"{path}: {len(classes)} classes, where {SETS[name].label_dim} are expected")
    encoder, width = PixelEncoder.measure(parts[0]), len(Split._fields)
    train, test = (
        ArrayDataset(
            name=f"{name}{suffix}",
            images=split.images,
            labels=split.labels,
            classes=classes,
            encoder=encoder,
            conditions={"style": functional.one_hot(split.styles, len(STYLES)).float()} if SETS[name].styled else {},
        )
        for suffix, split in (("", Split(*parts[:width])), ("-test", Split(*parts[width:])))
    )
    return train, test


def fashion(folder: Path) -> Made:
    """Fashion-MNIST, padded to 32x32."""
    root = folder / FASHION
    if not root.exists():
        if not list(folder.glob(f"{FASHION}_*.deb")):
            fetch("apt-get", "download", FASHION, folder=folder)
        fetch("dpkg", "-x", str(next(folder.glob(f"{FASHION}_*.deb")).resolve()), f"{FASHION}.partial", folder=folder)
        root.with_name(f"{FASHION}.partial").rename(root)
    files = root / "usr" / "share" / "datasets" / "fashion-mnist"

    def split(part: str) -> Split:
        images = read_idx(files / f"{part}-images-idx3-ubyte.gz")[:, None]
        return Split(functional.pad(images, (2, 2, 2, 2)), read_idx(files / f"{part}-labels-idx1-ubyte.gz").long())

    return split("train"), split("t10k"), FASHION_CLASSES


def fashion16(folder: Path) -> Made:
    """Fashion-MNIST at 16x16."""
    train, test, classes = fashion(folder)
    return train._replace(images=halved(train.images)), test._replace(images=halved(test.images)), classes


def emoji(folder: Path) -> Made:
    """Noto emoji on white, 32x32; each with its skin tones in one split."""
    known = [(number, each) for number, each in enumerate(listed(folder)) if each["category"] in EMOJI_CLASSES]
    tones = [
        (code(one["unified"]), number, EMOJI_CLASSES.index(each["category"]))
        for number, each in known
        for one in (each, *(each.get("skin_variations") or {}).values())
    ]
    drawn = pictures("Noto", {key for key, *_ in tones}, folder)
    there = [(drawn[key], number, label) for key, number, label in tones if key in drawn]
    images, numbers, labels = zip(*there, strict=True)
    whole = Split(halved(torch.stack(images)), torch.tensor(labels))
    return *parted(whole, torch.tensor(numbers), EVERY), EMOJI_CLASSES


def drawings(folder: Path, category: str) -> Made:
    """Emoji of a category in each of the styles that has them, on white, 32x32; every so many are for test.

    Classes are the emoji.
    """
    chosen = [each for each in listed(folder) if each["category"] == category]
    codes = [code(each["unified"]) for each in chosen]
    by_style = [pictures(style, set(codes), folder) for style in STYLES]
    there = [
        (drawn[key], label, style)
        for label, key in enumerate(codes)
        for style, drawn in enumerate(by_style)
        if key in drawn
    ]
    images, labels, styles = zip(*there, strict=True)
    whole = Split(halved(torch.stack(images)), torch.tensor(labels), torch.tensor(styles))
    return *parted(whole, torch.arange(len(there)), EVERY_DRAWING), [each["name"].lower() for each in chosen]


def parted(whole: Split, numbers: Tensor, every: int) -> tuple[Split, Split]:
    """Training and test: the last of so many numbers."""
    test = numbers % every == every - 1
    train, kept = (Split(*(part[rows] if len(part) else part for part in whole)) for rows in (~test, test))
    return train, kept


def listed(folder: Path) -> list[dict[str, Any]]:
    """What is known of all emoji, in the order of keyboards."""
    with tarfile.open(packed(EMOJI, folder)) as archive:
        file = archive.extractfile("package/emoji.json")
        assert file is not None
        return sorted(json.load(file), key=lambda emoji: emoji["sort_order"])


def packed(package: str, folder: Path) -> Path:
    """The archive of an npm package, fetched where it is not there."""
    path = packed_path(package, folder)
    if not path.exists():
        fetch("npm", "pack", package, "--silent", folder=folder)
    return path


def packed_path(package: str, folder: Path) -> Path:
    """Where npm puts the archive of a package."""
    name, _, version = package.rpartition("@")
    return folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"


def code(unified: str) -> str:
    """Code points of an emoji in lower case, without those that only ask for colour."""
    return "-".join(point for point in unified.lower().split("-") if point != "fe0f")


def pictures(style: str, codes: Collection[str], folder: Path) -> dict[str, Tensor]:
    """By their code, those emoji that are there in a style, on white, uint8 `[3, 64, 64]`; the archive is read once."""
    package, place = STYLES[style]
    (before, after), found = place.split("{}"), dict[str, Tensor]()
    with tarfile.open(packed(package, folder)) as archive:
        for member in archive:
            if not (member.name.startswith(before) and member.name.endswith(after)):
                continue
            key = code(member.name[len(before) : -len(after)])
            if key not in codes:
                continue
            file = archive.extractfile(member)
            assert file is not None
            drawn = Image.open(file).convert("RGBA")
            white = Image.new("RGBA", drawn.size, "white")
            pixels = np.asarray(Image.alpha_composite(white, drawn).convert("RGB").resize((64, 64)))
            found[key] = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return found


def halved(images: Tensor) -> Tensor:
    """Half the resolution, by a box filter, uint8."""
    return functional.avg_pool2d(images.float(), 2).round().to(torch.uint8)


def read_idx(path: Path) -> Tensor:
    """An array of MNIST's format: bytes 0, 0, 8 and the number of dimensions, then big-endian sizes, then uint8."""
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape).copy())


def fetch(*command: str, folder: Path) -> None:
    """Run a program that fetches or unpacks, in a folder."""
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not installed: run `{' '.join(command)}` elsewhere, into {folder}")
    subprocess.run(command, cwd=folder, check=True)


SETS: dict[str, ImageSet] = {
    "fashion16": ImageSet(fashion16, channels=1, label_dim=10),
    "fashion32": ImageSet(fashion, channels=1, label_dim=10),
    "emoji32": ImageSet(emoji, channels=3, label_dim=9),
    "animals32": ImageSet(functools.partial(drawings, category="Animals & Nature"), 3, 159, styled=True),
    "food32": ImageSet(functools.partial(drawings, category="Food & Drink"), 3, 131, styled=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    for name in SETS:
        train, test = open_set(name, args.folder)
        print(f"{name}: {len(train):,} training and {len(test):,} test images of {tuple(train.shape)}")


if __name__ == "__main__":
    main()
