"""From a public package of images to samples: `python examples/emoji/emoji.py --out runs/emoji`.

Fetches the npm package emoji-datasource-google (Google's Noto Emoji, Apache-2.0) with npm, sorts its 64x64 images into
one folder per category, and calls `unitgain` as a user would. What is done is not done again.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import torch

from unitgain.checkpoint.snapshot import Snapshot
from unitgain.data.encoder import encoder_from_dict
from unitgain.data.images import grid
from unitgain.sample import generate, sigma_grid

PACKAGE = "emoji-datasource-google@16.0.0"
UNITGAIN = [sys.executable, "-c", "from unitgain.cli.main import main; main()"]


def fetch(folder: Path) -> Path:
    """The package, as npm packs it."""
    found = sorted(folder.glob("emoji-datasource-google-*.tgz"))
    if not found:
        if shutil.which("npm") is None:
            sys.exit(f"npm is not installed: put the archive of {PACKAGE} into {folder} and call again")
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
        found = sorted(folder.glob("emoji-datasource-google-*.tgz"))
    return found[-1]


def sort(package: Path, pictures: Path) -> None:
    """One folder per category, with the 64x64 image of each emoji and of its skin tones."""
    if pictures.exists():
        return
    partial = pictures.with_name("pictures.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(package) as archive:
        members = {member.name: member for member in archive}
        listed = archive.extractfile(members["package/emoji.json"])
        assert listed is not None
        for emoji in json.load(listed):
            folder = partial / emoji["category"]
            folder.mkdir(parents=True, exist_ok=True)
            for one in (emoji, *(emoji.get("skin_variations") or {}).values()):
                member = members.get(f"package/img/google/64/{one['image']}")
                file = archive.extractfile(member) if member and one["has_img_google"] else None
                if file is not None:
                    (folder / one["image"]).write_bytes(file.read())
    partial.rename(pictures)


def unitgain(*arguments: object) -> None:
    """A command, shown and run."""
    words = [str(argument) for argument in arguments]
    print("\n$ unitgain", *words, flush=True)
    subprocess.run([*UNITGAIN, *words], check=True)


def draw(average: Path, picture: Path, columns: int = 6) -> None:
    """Samples, a row for each class."""
    with Snapshot(average) as snapshot:
        encoder, denoiser = encoder_from_dict(snapshot.header.encoder), snapshot.denoiser()
    denoiser.dtype = torch.bfloat16
    labels = [label for label in range(denoiser.spec.label_dim) for _ in range(columns)]
    seeds, sigmas = range(len(labels)), sigma_grid(16)
    pixels = [encoder.decode(images) for _, _, images in generate(denoiser, seeds, sigmas, label=labels)]
    grid(torch.cat(pixels), columns).save(picture)


def main() -> None:
    """Everything, one step after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/emoji"))
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    out, images = args.out, args.steps * 32
    out.mkdir(parents=True, exist_ok=True)
    sort(fetch(out), out / "pictures")
    data, run = out / "data", out / "run"
    unitgain("data", "prepare", out / "pictures", data, "--resolution", 64)
    unitgain("data", "check", data)
    unitgain("data", "show", data, "--out", out / "sheet.png")
    train = ["train", "pixels64-mini", "--data", data, "--classes", "data", "--normalize", "measured"]
    resume = ["--resume"] if run.exists() else []
    unitgain(*train, "--dtype", "bfloat16", "--duration", images, "--tick", 320, "--out", run, *resume)
    average = run / "ema" / f"{images:010d}-0.100.safetensors"
    if not average.exists():
        unitgain("ema", "reconstruct", run, "0.100")
    draw(average, out / "samples.png")
    print(out / "samples.png")


if __name__ == "__main__":
    main()
