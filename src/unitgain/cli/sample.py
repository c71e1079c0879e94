"""`unitgain sample`."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from unitgain.checkpoint.snapshot import DTYPES, Snapshot, SnapshotHeader
from unitgain.cli.arguments import Device, bar, parse_seeds, pick_device
from unitgain.data.encoder import LatentEncoder, encoder_from_dict
from unitgain.data.images import grid, save_png
from unitgain.data.vae import load_vae
from unitgain.files import require_empty, staged, write_text
from unitgain.sample import generate, sigma_grid
from unitgain.train.config import Precision


@dataclass(frozen=True)
class Sample:
    """Draw images with a snapshot.

    Image number s depends on the snapshot, the settings and s alone: not on the batch size or on which others are drawn
    with it. Writes <seed>.png for each, grid.png with all of them, and manifest.json, which says how they were made.
    """

    snapshot: Annotated[Path, tyro.conf.Positional]
    """A snapshot: a .safetensors file from training or reconstruction."""

    out: Path = Path("samples")
    """Folder for the images; must be empty."""

    seeds: str = "0-63"
    """Seeds, one image each: 7, a list 1,2,5 or a range with both ends 0-63."""

    label: Annotated[int | None, tyro.conf.arg(name="class")] = None
    """Class of all images. Default: each seed draws its own."""

    steps: int = 32
    """Steps of Heun's method; 2 N - 1 evaluations of the network."""

    batch: int = 64
    """Images in flight at a time; does not change the images."""

    columns: int | None = None
    """Columns of the grid. Default: about square."""

    sigma_min: float = 0.002
    """Lowest noise level before 0."""

    sigma_max: float = 80.0
    """Highest noise level."""

    rho: float = 7.0
    """Exponent of the schedule; higher is denser at low noise."""

    S_churn: float = 0.0
    """Fresh noise over the whole path; 0 is the deterministic sampler."""

    S_min: float = 0.0
    """Lowest noise level that is churned."""

    S_max: float = float("inf")
    """Highest noise level that is churned."""

    S_noise: float = 1.0
    """Standard deviation of the fresh noise."""

    dtype: Precision = "float32"
    """Precision of the network."""

    vae: str | None = None
    """Folder or Hub id of the VAE that decodes latents. Default: the one that the snapshot names."""

    device: Device = "auto"
    """Where to sample; kinds of device draw different noise."""

    def run(self) -> None:
        """Write the images."""
        seeds, device = parse_seeds(self.seeds), pick_device(self.device)
        if self.columns is not None and self.columns < 1:
            raise ValueError(f"--columns {self.columns}: must be at least 1")
        require_empty(self.out)
        with Snapshot(self.snapshot) as snapshot:
            header = snapshot.header
            denoiser = snapshot.denoiser().to(device)
        denoiser.dtype = DTYPES[self.dtype]
        encoder = encoder_from_dict(header.encoder)
        if isinstance(encoder, LatentEncoder):
            encoder = dataclasses.replace(encoder, vae=self.vae or encoder.vae)
            load_vae(encoder.vae, device)  # now rather than after the work, if it is not to be had
        elif self.vae is not None:
            raise ValueError(f"--vae {self.vae}: {self.snapshot} draws pixels, which need no VAE")
        elif header.network.channels not in (1, 3):
            raise ValueError(
                f"{self.snapshot} draws {header.network.channels} channels, which are no picture of 1 or 3"
            )
        sigmas = sigma_grid(self.steps, self.sigma_min, self.sigma_max, self.rho)
        churn = {name: getattr(self, name) for name in ("S_churn", "S_min", "S_max", "S_noise")}
        made, pixels = [], []
        with staged(self.out) as folder, bar("sampling", "images") as progress:
            progress(0, len(seeds))
            for chosen, labels, images in generate(
                denoiser,
                seeds,
                sigmas,
                label=self.label,
                batch=self.batch,
                on_images=lambda done: progress(done, len(seeds)),
                **churn,
            ):
                pixels.append(encoder.decode(images if isinstance(encoder, LatentEncoder) else images.cpu()).cpu())
                for i, seed in enumerate(chosen):
                    save_png(folder / f"{seed:06d}.png", pixels[-1][i])
                    made.append({"seed": seed, "class": None if labels is None else int(labels[i])})
            grid(torch.cat(pixels), self.columns).save(folder / "grid.png")
            manifest = self._manifest(header, device.type, made)
            write_text(folder / "manifest.json", json.dumps(manifest, indent=1, allow_nan=False) + "\n")
        print(f"{len(seeds)} images in {self.out}; look at {self.out / 'grid.png'}")

    def _manifest(self, header: SnapshotHeader, device: str, images: list[dict[str, Any]]) -> dict[str, Any]:
        names = ("steps", "sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise")
        sampler = {name: getattr(self, name) for name in names}
        sampler["S_max"] = self.S_max if math.isfinite(self.S_max) else None  # JSON has no infinity
        return {
            "snapshot": str(self.snapshot),
            "recipe": header.recipe,
            "nimg": header.nimg,
            "profile": header.profile,
            "sampler": {"method": "heun", **sampler},
            "dtype": self.dtype,
            "device": device,
            "images": images,
        }
