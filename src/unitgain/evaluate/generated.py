"""Images drawn by a network as they are measured, and not kept."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unitgain.checkpoint.snapshot import DTYPES, Snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser
from unitgain.evaluate.images import as_ranges
from unitgain.metrics.record import Source
from unitgain.sample import generate
from unitgain.serial import from_dict


class Generated:
    """The images of seeds; image number i is that of the i-th seed.

    Args:
        denoiser: in evaluation mode; it draws on its device.
        decode: from what it draws, `[n, C, H, W]`, to uint8 images.
        seeds: one per image.
        sigmas: schedule, as from `sigma_grid`.
        source: what the images are, but for their seeds.
        batch: images in flight at a time; does not change them.
        scale: mean and standard deviation that pixels are standardized with.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        decode: Callable[[Tensor], Tensor],
        seeds: Sequence[int],
        sigmas: Float[Tensor, " steps"],
        source: Source,
        batch: int = 64,
        scale: tuple[float, float] | None = None,
    ) -> None:
        self.denoiser, self.decode, self.seeds, self.sigmas = denoiser, decode, seeds, sigmas
        self.source, self.batch, self.scale = source, batch, scale

    def __len__(self) -> int:
        return len(self.seeds)

    def of_seeds(self, seeds: Sequence[int]) -> "Generated":
        """The images of other seeds."""
        return Generated(self.denoiser, self.decode, seeds, self.sigmas, self.source, self.batch, self.scale)

    def batches(self, numbers: Sequence[int]) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """As in `Images`."""
        seeds = [self.seeds[number] for number in numbers]
        for _, _, images in generate(self.denoiser, seeds, self.sigmas, batch=self.batch):
            yield self.decode(images)


def open_snapshot(
    path: Path,
    seeds: Sequence[int],
    sigmas: Float[Tensor, " steps"],
    *,
    batch: int = 64,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
) -> Generated:
    """The images that a snapshot draws.

    Args:
        path: the snapshot.
        seeds: one per image.
        sigmas: schedule.
        batch: images in flight at a time.
        dtype: precision of the network.
        device: where it draws.

    Raises:
        FileNotFoundError: if there is no snapshot.
        SnapshotError: if it is damaged.
        ValueError: if it draws no pictures of 1 or 3 channels.
    """
    with Snapshot(path) as snapshot:
        header, digest = snapshot.header, snapshot.sha256
        denoiser = snapshot.denoiser().to(device)
    if header.network.channels not in (1, 3):
        raise ValueError(
            f"{path} draws {header.network.channels} channels: decode its latents to images and measure those"
        )
    denoiser.dtype = DTYPES[dtype]
    encoder = from_dict(PixelEncoder, header.encoder)
    sampler = {
        "method": "heun",
        "steps": len(sigmas) - 1,
        "sigma_max": sigmas[0].item(),
        "sigma_min": sigmas[-2].item(),
        "dtype": dtype,
        "device": torch.device(device).type,
    }
    source = Source(
        kind="snapshot",
        name=str(path),
        seeds=as_ranges(seeds),
        snapshot=str(path),
        snapshot_hash=digest,
        sampler=sampler,
    )
    return Generated(denoiser, encoder.decode, seeds, sigmas, source, batch, (encoder.mean, encoder.std))
