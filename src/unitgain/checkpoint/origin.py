"""Where an official network comes from, by the name of its file: time, length, run."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LICENSE = "CC BY-NC-SA 4.0"
# `<prefix>-<thousands of images, 7 digits>-<sigma_rel, 3 decimals>.pkl`; those of a traditional average have no length.
FILE_NAME = re.compile(
    r"(?P<prefix>.+)-(?P<kimg>\d{1,12})-(?P<sigma_rel>\d?\.\d{1,9})\.pkl"
    r"|(?P<raw_prefix>.+snapshot)-(?P<raw_kimg>\d{1,12})\.pkl"
)
OFFICIAL_RUN = re.compile(r"edm2-img(512|64)-(xxs|xs|s|m|l|xl|xxl)(-uncond)?")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the name of an official file says, or its user.

    Args:
        nimg: images seen in training; None if nobody says it.
        sigma_rel: length of the average; None if nobody says it, or it has none, as a traditional average.
        recipe: name of the recipe.
        license: of the weights, if known.
        data: name of what it was trained on, if known.
        classes: names of the classes, which no official file has.
    """

    nimg: int | None
    sigma_rel: float | None
    recipe: str
    license: str | None = None
    data: str | None = None
    classes: tuple[str, ...] | None = None


class FileName(NamedTuple):
    """What a name says: what comes first, thousands of images rounded down, and the length of the average, if any."""

    prefix: str
    kimg: int
    sigma_rel: float | None


def parse_name(name: str) -> FileName | None:
    """What the name of a file says; None if it is not named as official files are."""
    match = FILE_NAME.fullmatch(name)
    if match is None:
        return None
    if match["prefix"] is None:
        return FileName(match["raw_prefix"], int(match["raw_kimg"]), None)
    return FileName(match["prefix"], int(match["kimg"]), float(match["sigma_rel"]))


def images_seen(kimg: int) -> int:
    """Images seen, from their thousands rounded down: the multiple of 1024 that gives these.

    Raises:
        ValueError: if none does.
    """
    nimg = -(-kimg * 1000 // 1024) * 1024
    if nimg // 1000 != kimg:
        raise ValueError(f"no multiple of 1024 images is {kimg} thousands rounded down; give the number with --nimg")
    return nimg


def origin(
    path: Path,
    *,
    nimg: int | None = None,
    sigma_rel: float | None = None,
    recipe: str | None = None,
    classes: tuple[str, ...] | None = None,
) -> Origin:
    """Where a network comes from: by the name of its file, and what is given instead. What neither says is None.

    Raises:
        ValueError: if a number is out of its range, or the name has one that no number of images rounds down to.
    """
    name = parse_name(path.name)
    if name is not None:
        nimg = images_seen(name.kimg) if nimg is None else nimg
        sigma_rel = name.sigma_rel if sigma_rel is None else sigma_rel
    if nimg is not None and nimg < 1:
        raise ValueError(f"images seen must be at least 1, not {nimg}")
    # Reconstructed networks are named after their run; raw snapshots lie in a folder that is.
    places = (name.prefix if name else "", path.absolute().parent.name)
    run = next((found[0] for place in places if (found := OFFICIAL_RUN.fullmatch(place))), None)
    data = None if run is None else ("ImageNet-512" if "img512" in run else "ImageNet-64")
    license = None if run is None else LICENSE
    recipe = recipe or run or "official"
    return Origin(nimg=nimg, sigma_rel=sigma_rel, recipe=recipe, license=license, data=data, classes=classes)
