"""Draw the images of seeds to disk, over processes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitgain.data.encoder import encoder_from_dict
from unitgain.data.preview import pictures_of
from unitgain.denoiser import classes_of
from unitgain.draw.archive import is_archive
from unitgain.draw.decode import Decode, decoder_of
from unitgain.draw.files import file_kind
from unitgain.draw.folder import CLASSES, GRID, ImageFolder
from unitgain.draw.images import draw_images
from unitgain.draw.networks import SELF, Network, guide_by
from unitgain.draw.rows import rows_of
from unitgain.draw.settings import DrawSettings
from unitgain.draw.sheet import draw_sheet
from unitgain.files import atomic
from unitgain.parallel import World
from unitgain.sample.generation import check_batch
from unitgain.sample.seeds import as_seeds
from unitgain.version import __version__

GRID_MOST = 400  # images of a contact sheet


@dataclass(frozen=True)
class ImageCount:
    """What `write_images` did.

    Attributes:
        total: images in the folder or archive now.
        new: of them drawn by this call; the others were there.
    """

    total: int
    new: int


def write_images(
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
) -> ImageCount:
    """Draw images into a folder or an archive, going on where an earlier call stopped; arrays as the files that their
    data came from: WAV, NIfTI, else NPY.

    Every process draws its share and writes it; the files, the manifest too, are the same at any number of processes.
    Images that are missing or cut short are drawn again.

    Args:
        main: the network.
        guide: what guides it; None for itself without its label. Not used at a guidance of 1.
        settings: how.
        seeds: one image each; what comes twice is drawn once.
        out: a folder, or a file that ends in .zip.
        world: the processes that share the work; each has opened the networks on its device.
        batch: images in flight at a time in each process; does not change the images.
        contact_sheet: also write `grid.png` with the first 400 images, into the folder or beside the archive; where
            they are drawn for rows of data, each on the right of the real picture of its row.
        columns: of the contact sheet; about square by default.
        on_progress: called with (images there, images in all) in the first process.

    Raises:
        FileExistsError: if `out` holds something else.
        ValueError: if it holds images that were drawn otherwise, the networks or the class do not fit, or `batch` or
            `columns` is not positive.
        OSError: if something cannot be written; the next call goes on.
    """
    world, out = world or World(), Path(out)
    seeds = list(dict.fromkeys(as_seeds(seeds)))
    _check(batch, columns)
    settings = settings.with_classes(classes_of(main.denoiser))
    denoiser, decode = guide_by(main, guide, settings), decoder_of(main.denoiser, settings.vae)
    names = {} if main.denoiser.classes is None else {CLASSES: main.denoiser.classes}
    about = describe(main, guide, settings, world.device) | names
    folder = ImageFolder(out, about, world.rank, file_kind(main.encoder))
    before = world.on_main(lambda: _open(folder, seeds))
    left = [seed for seed in seeds if seed not in before]
    advance = world.progress(on_progress if world.main else None, len(seeds), before=len(seeds) - len(left))
    if world.main and on_progress is not None:
        on_progress(len(seeds) - len(left), len(seeds))
    sheet = dict.fromkeys(sorted(before.union(seeds))[:GRID_MOST] if contact_sheet else ())  # samples, where drawn here
    drawn = draw_images(denoiser, decode, world.share(left), settings, batch=batch, on_images=advance)
    for part, labels, images in drawn:
        for i, seed in enumerate(part):
            folder.write(seed, None if labels is None else int(labels[i]), images[i])
        sheet.update({seed: image for seed, image in zip(part, images, strict=True) if seed in sheet})
    world.barrier()
    return ImageCount(world.on_main(lambda: _close(folder, sheet, main, columns, settings, decode)), len(left))


def sheet_of(out: Path) -> Path:
    """Where the contact sheet of a folder or an archive of images is."""
    return out.with_suffix(".png") if is_archive(out) else out / GRID


def describe(main: Network, guide: Network | None, settings: DrawSettings, device: torch.device) -> dict[str, Any]:
    """How images are drawn, as a manifest has it."""
    guided = settings.guidance != 1
    return {
        "network": {"name": main.name, **main.record},
        "guide": None if not guided else {"name": SELF} if guide is None else {"name": guide.name, **guide.record},
        "settings": settings.record(device),
        "device": device.type,
        "software": {"unitgain": __version__, "torch": torch.__version__},
    }


def _check(batch: int, columns: int | None) -> None:
    check_batch(batch)
    if columns is not None and columns < 1:
        raise ValueError(f"columns = {columns}: must be at least 1")


def _open(folder: ImageFolder, seeds: Sequence[int]) -> set[int]:
    """The seeds whose images are there: in an archive that is to grow, all of them read."""
    folder.check()
    there = folder.finished()
    if folder.archive is not None and not there.keys() >= set(seeds):
        folder.archive.forget_damaged(entry["file"] for entry in there.values())
        there = folder.finished()
    return set(there)


def _close(
    folder: ImageFolder,
    sheet: Mapping[int, Tensor | None],
    main: Network,
    columns: int | None,
    settings: DrawSettings,
    decode: Decode,
) -> int:
    """Finish the folder and write the contact sheet of these seeds; returns how many images there are.

    Samples of the sheet that are None were drawn before, or by another process, and are read.
    """
    read = {seed: folder.read(folder.file_of(seed)) for seed, sample in sheet.items() if sample is None}
    samples = {seed: folder.kind.decode(read[seed]) if one is None else one for seed, one in sheet.items()}
    entries = folder.finish()
    if samples:
        encoder = encoder_from_dict(main.encoder)
        pictures = torch.stack([pictures_of(sample[None], encoder)[0] for sample in samples.values()])
        if (rows := rows_of(settings)) is not None:
            pictures = rows.beside(list(samples), pictures, decode)
        images = dict(zip(samples, pictures, strict=True))
        labels = {entry["seed"]: entry["class"] for entry in entries}
        picture = draw_sheet(images, labels, columns, settings, classes_of(main.denoiser))
        with atomic(sheet_of(folder.out)) as temporary:
            picture.save(temporary, format="PNG")
    return len(entries)
