"""Draw the images of seeds: to the caller, or to disk over processes."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from unitgain.data.fit import decode
from unitgain.data.images import grid
from unitgain.denoiser import Denoiser
from unitgain.draw.archive import pack, parts_of, unpack
from unitgain.draw.decode import Decode, decoder
from unitgain.draw.folder import GRID, Entry, ImageFolder
from unitgain.draw.networks import SELF, Network, guide_by
from unitgain.draw.settings import DrawSettings
from unitgain.files import atomic
from unitgain.guide import Guided
from unitgain.parallel import World
from unitgain.sample import generate
from unitgain.sample.generation import check_labels
from unitgain.sample.seeds import check_seeds
from unitgain.trust import DEFAULT_LIMITS, read_regular
from unitgain.version import __version__

GRID_MOST = 400  # images of a contact sheet


def pictures(
    denoiser: Denoiser | Guided,
    decode: Decode,
    seeds: Sequence[int],
    settings: DrawSettings,
    *,
    batch: int = 64,
    on_images: Callable[[float], None] | None = None,
) -> Iterator[tuple[Sequence[int], Int[Tensor, " n"] | None, UInt8[Tensor, "n c h w"]]]:
    """Draw and decode.

    Args:
        denoiser: guided as `settings` say, as from `guide_by`.
        decode: as from `decoder`.
        seeds: one per image.
        settings: sampler and class; the guidance is that of `denoiser`.
        batch: images in flight at a time; does not change them.
        on_images: as in `unitgain.sample.generate`.

    Yields:
        Seeds, labels (int64 `[n]`, None for an unconditional network) and 8-bit pictures `[n, C, H, W]` on the CPU.
    """
    for chosen, labels, images in generate(
        denoiser,
        seeds,
        settings.sigmas(),
        sampler=settings.function(),
        label=settings.label,
        batch=batch,
        on_images=on_images,
    ):
        yield chosen, labels, decode(images)


@dataclass(frozen=True)
class Drawn:
    """What `draw` did.

    Attributes:
        total: images in the folder or archive now.
        new: of them drawn by this call; the others were there and whole.
    """

    total: int
    new: int


def draw(
    main: Network,
    guide: Network | None,
    settings: DrawSettings,
    seeds: Sequence[int],
    out: Path,
    *,
    world: World | None = None,
    batch: int = 64,
    contact_sheet: bool = False,
    columns: int | None = None,
    on_progress: Callable[[float, int], None] | None = None,
) -> Drawn:
    """Draw images into a folder or an archive, going on where an earlier call stopped.

    Every process draws its share and writes it; the files, the manifest too, are the same at any number of processes.
    Images that are there are checked against their hashes, and drawn again where they are damaged.

    Args:
        main: the network.
        guide: what guides it; None for itself without its label. Not used at a guidance of 1.
        settings: how.
        seeds: one image each.
        out: a folder, or a file that ends in .zip.
        world: the processes that share the work; each has opened the networks on its device.
        batch: images in flight at a time in each process; does not change the images.
        contact_sheet: also write `grid.png` with the first 400 images, into the folder or beside the archive.
        columns: of the contact sheet; about square by default.
        on_progress: called with (images there, images in all) in the first process.

    Raises:
        FileExistsError: if `out` holds something else.
        ValueError: if it holds images that were made otherwise, or the networks or the class do not fit.
        OSError: if something cannot be written; the next call goes on.
    """
    world = world or World()
    check_seeds(seeds)
    denoiser = guide_by(main, guide, settings)
    decode = decoder(main.encoder, main.denoiser.spec.channels, world.device, settings.vae)
    if settings.label is not None:
        check_labels([settings.label], 1, main.denoiser.spec.label_dim)
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    archived = out.suffix == ".zip"
    root = parts_of(out) if archived else out
    made = describe(main, guide, settings, world.device)
    whole = world.on_main(lambda: _open(out, root, made))
    left = [seed for seed in seeds if seed not in whole]
    there = len(seeds) - len(left)
    folder = ImageFolder(root, made, out, world.rank)
    if on_progress is not None and world.main:
        on_progress(there, len(seeds))
    advance = world.progress(on_progress if world.main else None, len(seeds), before=there)
    for chosen, labels, pixels in pictures(
        denoiser, decode, world.share(left), settings, batch=batch, on_images=advance
    ):
        for i, seed in enumerate(chosen):
            folder.write(seed, None if labels is None else int(labels[i]), pixels[i])
    world.barrier()
    total = world.on_main(lambda: _close(folder, out, archived, columns, contact_sheet))
    return Drawn(total, len(left))


def describe(main: Network, guide: Network | None, settings: DrawSettings, device: torch.device) -> dict[str, Any]:
    """How images are made, as a manifest has it."""
    led = settings.guidance != 1
    return {
        "network": {"name": main.name, **main.record},
        "guide": None if not led else {"name": SELF} if guide is None else {"name": guide.name, **guide.record},
        "settings": settings.record(),
        "device": device.type,
        "software": {"unitgain": __version__, "torch": torch.__version__},
    }


def _open(out: Path, root: Path, made: dict[str, Any]) -> set[int]:
    """The seeds whose images are whole."""
    unpacked = out != root and out.exists() and not root.exists()
    try:
        if unpacked:
            unpack(out, root)
        folder = ImageFolder(root, made, out)
        folder.check()
        return set(folder.finished())
    except (ValueError, FileExistsError):
        if unpacked:
            shutil.rmtree(root, ignore_errors=True)
        raise


def _close(folder: ImageFolder, out: Path, archived: bool, columns: int | None, contact_sheet: bool) -> int:
    entries = folder.finish()
    if contact_sheet:
        target = out.with_suffix(".png") if archived else out / GRID
        with atomic(target) as temporary:
            _sheet(folder.root, entries[:GRID_MOST], columns).save(temporary, format="PNG")
    if archived:
        pack(folder.root, entries, out)
        shutil.rmtree(folder.root)
    return len(entries)


def _sheet(root: Path, entries: Sequence[Entry], columns: int | None) -> Image.Image:
    images: list[Tensor] = []
    for entry in entries:
        data = read_regular(root / entry["file"], DEFAULT_LIMITS, below=root)
        pixels = torch.from_numpy(np.array(decode(data, DEFAULT_LIMITS)))
        images.append(pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1))
    return grid(torch.stack(images), columns)
