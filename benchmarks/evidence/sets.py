"""The images: Fashion-MNIST from a Debian package, emoji from an npm package; split into training and test.

    python benchmarks/evidence/sets.py --folder runs/evidence/data     # fetch them, and say what is there

Nothing is installed: `apt-get download` and `npm pack` need no root, and `dpkg -x` only unpacks.
"""

import argparse
import gzip
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

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

Split = tuple[Tensor, Tensor]  # uint8 [N, C, H, W], int64 [N]


def open_set(name: str, folder: Path) -> tuple[ArrayDataset, ArrayDataset]:
    """Training and test split of a set; fetched where it is not there.

    Args:
        name: of `SETS`.
        folder: keeps the packages, and the sets as they are used.

    Raises:
        FileNotFoundError: if the program that fetches the package is missing.
        subprocess.CalledProcessError: if it fails.
    """
    path = folder / f"{name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        train, test = SETS[name][0](folder)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, *(part.numpy() for part in (*train, *test)))
        partial.rename(path)
    with np.load(path) as arrays:
        images, labels, test_images, test_labels = (torch.from_numpy(arrays[key]) for key in arrays.files)
    encoder, classes = PixelEncoder.measure(images), SETS[name][1]
    return (
        ArrayDataset(name=name, images=images, labels=labels, classes=classes, encoder=encoder),
        ArrayDataset(name=f"{name}-test", images=test_images, labels=test_labels, classes=classes, encoder=encoder),
    )


def fashion(folder: Path) -> tuple[Split, Split]:
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
        return functional.pad(images, (2, 2, 2, 2)), read_idx(files / f"{part}-labels-idx1-ubyte.gz").long()

    return split("train"), split("t10k")


def fashion16(folder: Path) -> tuple[Split, Split]:
    """Fashion-MNIST at 16x16."""
    train, test = fashion(folder)
    return (halved(train[0]), train[1]), (halved(test[0]), test[1])


def emoji(folder: Path) -> tuple[Split, Split]:
    """Noto emoji on white, 32x32; each with its skin tones in one split."""
    archives = list(folder.glob("emoji-datasource-google-*.tgz"))
    if not archives:
        fetch("npm", "pack", EMOJI, "--silent", folder=folder)
        archives = list(folder.glob("emoji-datasource-google-*.tgz"))
    with tarfile.open(archives[0]) as archive:
        listed = list(pictures(archive))
    parts = []
    for test in (False, True):
        chosen = [(image, label) for number, image, label in listed if (number % EVERY == EVERY - 1) is test]
        parts.append((halved(torch.stack([image for image, _ in chosen])), torch.tensor([at for _, at in chosen])))
    return parts[0], parts[1]


def pictures(archive: tarfile.TarFile) -> Iterator[tuple[int, Tensor, int]]:
    """Number of the emoji in the order of keyboards, picture of one of its skin tones at 64x64, class."""
    members = {member.name: member for member in archive}
    listed = archive.extractfile(members["package/emoji.json"])
    assert listed is not None
    for number, each in enumerate(sorted(json.load(listed), key=lambda emoji: emoji["sort_order"])):
        if each["category"] not in EMOJI_CLASSES:
            continue
        for one in (each, *(each.get("skin_variations") or {}).values()):
            member = members.get(f"package/img/google/64/{one['image']}")
            file = archive.extractfile(member) if member and one["has_img_google"] else None
            if file is not None:
                picture = Image.open(file).convert("RGBA")
                white = Image.new("RGBA", picture.size, "white")
                pixels = np.asarray(Image.alpha_composite(white, picture).convert("RGB").resize((64, 64)))
                yield number, torch.from_numpy(pixels.copy()).permute(2, 0, 1), EMOJI_CLASSES.index(each["category"])


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


SETS: dict[str, tuple[Callable[[Path], tuple[Split, Split]], tuple[str, ...]]] = {
    "fashion16": (fashion16, FASHION_CLASSES),
    "fashion32": (fashion, FASHION_CLASSES),
    "emoji32": (emoji, EMOJI_CLASSES),
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
