"""Folders of pictures out of a public package: `python examples/sprites/sprites.py sprites`.

Fetches the Debian package wesnoth-1.16-data (game art, GPL-2+) with apt-get, or takes the .deb that lies here, and
copies some of its pictures into a folder, as somebody's own pictures would lie there. Nothing is resized or converted.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

PACKAGE = "wesnoth-1.16-data"
IMAGES = "usr/share/games/wesnoth/1.16/data/core/images"
UNITS = ("drakes", "dwarves", "elves-wood", "human-loyalists", "monsters", "orcs", "saurians", "undead-skeletal")
EACH = 125  # pictures of each class


def unpack(folder: Path) -> Path:
    """The pictures of the package."""
    debs = sorted(Path().glob(f"{PACKAGE}_*.deb"))
    if not debs:
        if shutil.which("apt-get") is None:
            sys.exit(f"apt-get is not installed: put the .deb of {PACKAGE} here and call again")
        subprocess.run(["apt-get", "download", PACKAGE], check=True)
        debs = sorted(Path().glob(f"{PACKAGE}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", debs[-1], folder], check=True)
    return folder / IMAGES


def units(images: Path, name: str) -> Iterator[Path]:
    """Sprites of 72x72, no two alike, in an order that has nothing to do with their names."""
    seen = set()
    for path in sorted(
        (images / "units" / name).rglob("*.png"), key=lambda path: hashlib.sha256(path.name.encode()).digest()
    ):
        with Image.open(path) as picture:
            pixels = hashlib.sha256(picture.convert("RGBA").tobytes()).digest()
            if picture.size == (72, 72) and pixels not in seen:
                seen.add(pixels)
                yield path


def choose(images: Path, of: str) -> Iterator[tuple[Path, str]]:
    """Pictures, and where each goes."""
    if of == "units":
        for name in UNITS:
            for path, _ in zip(units(images, name), range(EACH), strict=False):
                yield path, f"{name}/{path.name}"
    elif of == "dwarves":
        for path in units(images, "dwarves"):
            yield path, path.name
    else:
        for path in sorted((images / "portraits").rglob("*.png")):
            yield path, "-".join(path.relative_to(images / "portraits").parts)


def main() -> None:
    """Fetch, unpack, copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--of", choices=("units", "dwarves", "portraits"), default="units")
    args = parser.parse_args()
    if args.folder.exists():
        sys.exit(f"{args.folder} exists: name another folder, or remove it")
    with tempfile.TemporaryDirectory(dir=args.folder.resolve().parent) as temporary:
        images = unpack(Path(temporary))
        partial = Path(temporary, "pictures")
        for path, name in choose(images, args.of):
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        partial.rename(args.folder)
    print(f"{sum(path.is_file() for path in args.folder.rglob('*')):,} pictures in {args.folder}")


if __name__ == "__main__":
    main()
