"""Prepared pixels to prepared latents, by any number of processes.

A shard of latents stands for the shard of pixels with its number, so what it holds depends on neither the number of
processes nor interruptions. Means and standard deviations are stored; a latent is drawn at each use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unitgain.data.encoder import LatentEncoder
from unitgain.data.manifest import Manifest, Shard
from unitgain.data.prepared import PreparedDataset
from unitgain.data.settings import Normalization, PixelRange
from unitgain.data.shards import Column, ShardWriter, features, latent_sums, moments
from unitgain.data.vae import downsampling, load_vae, vae_encode
from unitgain.data.workers import cores, in_order
from unitgain.denoiser import weights_hash
from unitgain.official import VAE
from unitgain.parallel import World
from unitgain.serial import to_dict
from unitgain.size import Size, show_size, size_of


def encode(
    source: Path,
    folder: Path,
    vae: str,
    *,
    world: World,
    normalization: Normalization = "auto",
    pixels: PixelRange = "0..1",
    batch: int = 16,
    on_progress: Callable[[float, int], None] | None = None,
) -> Manifest:
    """Make a folder of latents, or go on with one that was interrupted; classes and conditions stay as they are.

    Args:
        source: prepared pixels.
        folder: the result.
        vae: folder or Hub id of a diffusers `AutoencoderKL`.
        world: the processes that share the work.
        normalization: "official": that of the official networks; "measured": mean 0 and standard deviation 0.5 in each
            channel; "auto": official for the official VAE, else measured.
        pixels: what the VAE is fed with: "0..1" as the official networks have it, "-1..1" as diffusers does.
        batch: images at a time; another call may go on with other batches, which differ in rounding alone.
        on_progress: called with the images done and all of them.

    Returns:
        The manifest, on every process.

    Raises:
        DataError: if the pixels are damaged.
        FileExistsError: if the folder holds something else.
        ImportError: if diffusers is missing.
        ValueError: if the VAE cannot be had or does not fit, a condition is an image larger than the latents, or
            settings differ from those of the interrupted job.
    """
    if batch < 1:
        raise ValueError(f"batch {batch}: must be at least 1 image")
    dataset = PreparedDataset(source)
    model = load_vae(vae, world.device)
    check_vae(dataset, model, vae)
    official = normalization == "official" or (normalization == "auto" and is_official(vae))
    job = _Job(dataset, vae, model, official, pixels, batch)
    writer = world.on_main(lambda: ShardWriter(folder, job.settings()))
    if writer.finished is not None:
        return writer.finished
    missing = [index for index in range(len(dataset.manifest.shards)) if index not in writer.shards]
    done = sum(shard.rows for shard in writer.shards.values())
    progress = world.progress(on_progress, len(dataset), done)
    try:
        mine = job.encode(writer, world.share(missing), progress)
    except BaseException:
        if world.size == 1:  # others may be about to write their first shard
            writer.abandon()
        raise
    for part in world.gather(mine):
        writer.shards |= part
    return world.on_main(lambda: job.finish(writer))


@dataclass(frozen=True)
class _Job:
    """What is encoded, and how; the arguments of `encode`, checked."""

    dataset: PreparedDataset
    vae: str
    model: Any
    official: bool
    pixels: PixelRange
    batch: int

    def settings(self) -> dict[str, Any]:
        """All that the result depends on."""
        conditions = [column.name for column in self.dataset.manifest.conditions]
        return {
            "source_fingerprint": self.dataset.fingerprint,
            "vae": self.vae,
            "vae_fingerprint": weights_hash(self.model),
            "pixels": self.pixels,
            "normalization": "official" if self.official else "measured",
            "batch": self.batch,
            "device": self.model.device.type,
            **({"conditions": conditions} if conditions else {}),
        }

    def encode(
        self, writer: ShardWriter, indices: Sequence[int], on_progress: Callable[[float], None] | None
    ) -> dict[int, Shard]:
        """Encode the shards of this process."""
        done = 0
        written: dict[int, Shard] = {}
        for index in indices:
            stored: list[np.ndarray] = []
            rows = self._rows(index)
            parts = (np.array(rows[first : first + self.batch]) for first in range(0, len(rows), self.batch))
            for images, _ in in_order(self.dataset.rows, parts, min(cores(), 2)):  # decoded while the VAE works
                stored.append(vae_encode(self.model, images, self.pixels).cpu().numpy())
                done += len(images)
                if on_progress is not None:
                    on_progress(done)
            written[index] = self._write(writer, index, np.concatenate(stored))
        return written

    def finish(self, writer: ShardWriter) -> Manifest:
        """Write what makes the shards of all processes a data set."""
        mean, std = moments([writer.shards[index] for index in sorted(writer.shards)])  # sums depend on their order
        own = LatentEncoder(vae=self.vae, mean=mean, std=std, pixels=self.pixels)
        conditions = self.dataset.manifest.conditions
        return writer.finish(
            features("latent", self.dataset.classes, [column.name for column in conditions]),
            conditions=conditions,
            kind="latent",
            resolution=self._resolution(),
            channels=2 * int(self.model.config.latent_channels),
            classes=self.dataset.classes,
            encoder=to_dict(LatentEncoder.official(self.vae) if self.official else own),
        )

    def _rows(self, index: int) -> range:
        """Of the data set, in a shard."""
        start = sum(shard.rows for shard in self.dataset.manifest.shards[:index])
        return range(start, start + self.dataset.manifest.shards[index].rows)

    def _write(self, writer: ShardWriter, index: int, latents: np.ndarray) -> Shard:
        rows = self._rows(index)
        sums, squares = latent_sums(latents)
        columns: dict[str, Column] = {"latent": [row.tobytes() for row in latents]}
        if self.dataset.labels is not None:
            columns["label"] = self.dataset.labels[rows.start : rows.stop].tolist()
        columns["key"] = [self.dataset.key(row) for row in rows]
        conditions = self.dataset.manifest.conditions
        columns |= {one.name: [self.dataset.stored_condition(one, row) for row in rows] for one in conditions}
        values = len(rows) * latents.shape[2] * latents.shape[3]
        size = self._resolution()
        return writer.write(
            index,
            columns,
            kind="latent",
            items=len(rows),
            resolution=size,
            values=values,
            sums=sums,
            squares=squares,
            conditions=self.dataset.manifest.shards[index].conditions,
        )

    def _resolution(self) -> Size:
        """Of the latents."""
        return size_of(tuple(side // downsampling(self.model) for side in self.dataset.manifest.size))


def is_official(vae: str) -> bool:
    """Whether this is the VAE of the official networks: by its id, or a folder or cache named as it is."""
    names = (VAE.partition("/")[2], f"models--{VAE.replace('/', '--')}")
    return vae == VAE or any(part in names for part in Path(vae).parts)


def check_vae(dataset: PreparedDataset, model: Any, name: str) -> None:
    """Check that a VAE takes these images.

    Raises:
        ValueError: if they are latents already, or channels, size or images among the conditions do not fit.
    """
    if dataset.latents:
        raise ValueError(f"{dataset.name} holds latents already")
    if dataset.manifest.kind != "image":
        raise ValueError(f"{dataset.name} holds arrays: a VAE makes latents of pictures")
    channels, *size = dataset.stored_shape
    if model.config.in_channels != channels:
        raise ValueError(f"the VAE {name} takes {model.config.in_channels} channels, {dataset.name} has {channels}")
    if any(side % downsampling(model) for side in size):
        raise ValueError(
            f"the VAE {name} makes latents {downsampling(model)} times smaller; {show_size(tuple(size))} pixels are no "
            "multiple of that"
        )
    latent = tuple(side // downsampling(model) for side in size)
    for column in dataset.manifest.conditions:
        sides = column.shape[1:]
        if len(sides) == len(latent) and any((side or 0) > most for side, most in zip(sides, latent, strict=True)):
            raise ValueError(
                f"{dataset.name}: the condition {column} is larger than its latents, {show_size(latent)}, with which "
                "networks see it: prepare it smaller, or prepare the pictures without it"
            )
