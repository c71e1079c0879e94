"""Prepared pixels to prepared latents, by any number of processes.

A shard of latents stands for the shard of pixels with its number, so what it holds depends on neither the number of
processes nor interruptions. Means and standard deviations are stored; a latent is drawn at each use.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unitgain.data.encoder import OFFICIAL_VAE, LatentEncoder
from unitgain.data.prepared import PreparedDataset
from unitgain.data.shards import Manifest, Shard, ShardWriter, features, latent_sums, moments
from unitgain.data.vae import PixelRange, downsampling, latent_channels, load_vae, vae_encode
from unitgain.data.workers import cores
from unitgain.parallel import World
from unitgain.serial import to_dict

Normalization = Literal["auto", "official", "measured"]


def encode(
    source: Path,
    folder: Path,
    vae: str,
    *,
    world: World,
    normalization: Normalization = "auto",
    pixels: PixelRange = "0..1",
    batch: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Make a folder of latents, or go on with one that was interrupted.

    Args:
        source: prepared pixels.
        folder: the result.
        vae: folder or Hub id of a diffusers `AutoencoderKL`.
        world: the processes that share the work.
        normalization: "official": that of the official networks; "measured": mean 0 and standard deviation 0.5 in each
            channel; "auto": official for the official VAE, else measured.
        pixels: what the VAE is fed with: "0..1" as the official networks have it, "-1..1" as diffusers does.
        batch: images at a time.
        on_progress: called with the images done and all of them, of this process.

    Returns:
        The manifest, on every process.

    Raises:
        DataError: if the pixels are damaged.
        FileExistsError: if the folder holds something else.
        ImportError: if diffusers is missing.
        ValueError: if the VAE cannot be had or does not fit, or settings differ from those of the interrupted job.
    """
    if batch < 1:
        raise ValueError(f"batch {batch}: must be at least 1 image")
    dataset = PreparedDataset(source)
    model = load_vae(vae, world.device)
    check_vae(dataset, model, vae)
    official = normalization == "official" or (normalization == "auto" and is_official(vae))
    settings = {
        "source_fingerprint": dataset.fingerprint,
        "vae": vae,
        "vae_fingerprint": vae_fingerprint(model),
        "pixels": pixels,
        "normalization": "official" if official else "measured",
        "batch": batch,
        "device": world.device.type,
    }
    writer = ShardWriter(folder, settings) if world.main else None
    missing = world.broadcast(_missing(writer, dataset))
    if writer is None:
        writer = ShardWriter(folder, settings, leader=False)
    if missing is None:
        assert writer.finished is not None
        return writer.finished
    written = _encode_shards(writer, dataset, list(world.share(missing)), model, batch, pixels, on_progress)
    for part in world.gather(written):
        writer.shards |= part
    if world.main:
        _finish(writer, dataset, vae, official, pixels, model)
    world.barrier()
    return ShardWriter(folder, settings, leader=False).finished  # type: ignore[return-value]


def is_official(vae: str) -> bool:
    """Whether this is the VAE of the official networks: by its id, or a folder or cache named as it is."""
    names = (OFFICIAL_VAE.partition("/")[2], f"models--{OFFICIAL_VAE.replace('/', '--')}")
    return vae == OFFICIAL_VAE or any(part in names for part in Path(vae).parts)


def check_vae(dataset: PreparedDataset, model: Any, name: str) -> None:
    """Check that a VAE takes these images.

    Raises:
        ValueError: if they are latents already, or channels or size do not fit.
    """
    if dataset.latents:
        raise ValueError(f"{dataset.name} holds latents already")
    channels, edge, _ = dataset.stored_shape
    if model.config.in_channels != channels:
        raise ValueError(f"the VAE {name} takes {model.config.in_channels} channels, {dataset.name} has {channels}")
    if edge % downsampling(model):
        raise ValueError(
            f"the VAE {name} makes latents {downsampling(model)} times smaller; {edge} pixels are no multiple of that"
        )


def vae_fingerprint(model: Any) -> str:
    """Of the weights of a VAE."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def _missing(writer: ShardWriter | None, dataset: PreparedDataset) -> list[int] | None:
    if writer is None or writer.finished is not None:
        return None
    return [index for index in range(len(dataset.manifest.shards)) if index not in writer.shards]


def _encode_shards(
    writer: ShardWriter,
    dataset: PreparedDataset,
    mine: list[int],
    model: Any,
    batch: int,
    pixels: PixelRange,
    on_progress: Callable[[int, int], None] | None,
) -> dict[int, Shard]:
    """Encode the shards of this process."""
    written = {}
    total, done = sum(dataset.manifest.shards[index].rows for index in mine), 0
    for index in mine:
        for stored in _encode_shard(writer, dataset, index, model, batch, pixels):
            if isinstance(stored, int):
                done += stored
                if on_progress is not None:
                    on_progress(done, total)
            else:
                written[index] = stored
    return written


def _encode_shard(
    writer: ShardWriter, dataset: PreparedDataset, index: int, model: Any, batch: int, pixels: PixelRange
) -> Iterator[int | Shard]:
    """Encode a shard; yields the images of each batch as it is done and, at the end, the shard."""
    import pyarrow as pa

    start = sum(shard.rows for shard in dataset.manifest.shards[:index])
    rows = dataset.manifest.shards[index].rows
    stored: list[np.ndarray] = []
    for images in _read_ahead(dataset, start, start + rows, batch):
        stored.append(vae_encode(model, images, pixels).cpu().numpy())
        yield len(images)
    latents = np.concatenate(stored)
    sums, squares = latent_sums(latents)
    columns = {"latent": pa.array([row.tobytes() for row in latents], pa.binary())}
    if dataset.labels is not None:
        columns["label"] = pa.array(dataset.labels[start : start + rows].numpy(), pa.int64())
    columns["key"] = pa.array([dataset.key(row) for row in range(start, start + rows)], pa.string())
    values = rows * latents.shape[2] * latents.shape[3]
    yield writer.write(index, columns, kind="latent", items=rows, values=values, sums=sums, squares=squares)


def _read_ahead(dataset: PreparedDataset, start: int, stop: int, batch: int) -> Iterator[Tensor]:
    """The images of rows `start` to `stop - 1`, decoded by threads while the VAE works."""
    pending: deque[Future[tuple[Tensor, Any]]] = deque()
    with ThreadPoolExecutor(min(cores(), 8)) as pool:
        for first in range(start, stop, batch):
            pending.append(pool.submit(dataset.rows, np.arange(first, min(first + batch, stop))))
            if len(pending) > 8:
                yield pending.popleft().result()[0]
        while pending:
            yield pending.popleft().result()[0]


def _finish(
    writer: ShardWriter, dataset: PreparedDataset, vae: str, official: bool, pixels: PixelRange, model: Any
) -> None:
    mean, std = moments([writer.shards[index] for index in sorted(writer.shards)])  # sums depend on their order
    own = LatentEncoder(vae=vae, mean=mean, std=std, pixels=pixels)
    edge = dataset.manifest.resolution // downsampling(model)
    writer.finish(
        features("latent", dataset.classes),
        kind="latent",
        resolution=edge,
        channels=2 * latent_channels(model),
        classes=dataset.classes,
        encoder=to_dict(LatentEncoder.official(vae) if official else own),
    )


def draw(dataset: PreparedDataset, rows: np.ndarray) -> Tensor:
    """Pictures of rows, uint8 `[n, c, h, w]`: pixels as they are, latents through the VAE, their means undrawn."""
    stored, _ = dataset.rows(rows)
    if not isinstance(dataset.encoder, LatentEncoder):
        return stored
    mean = stored.clone()
    mean[:, mean.shape[1] // 2 :] = 0
    with torch.inference_mode():
        return dataset.encoder.decode(dataset.encode(mean))
