"""The official networks by the names their authors gave: what to download, and how it scored.

A preset is a network of a given average length, what guides it, and how strongly; each belongs to a published score of
a recipe. Nothing is in here that the recipes do not say, but the addresses.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unitgain.checkpoint.convert import convert_network, intact_header, read_network
from unitgain.checkpoint.origin import LICENSE, origin
from unitgain.checkpoint.statistics import read_reference
from unitgain.download import Progress, download
from unitgain.files import cache_folder
from unitgain.kinds import PICKLE
from unitgain.metrics.reference import official_references
from unitgain.recipe import Recipe, Score
from unitgain.recipes import RECIPES
from unitgain.serial import suggest

BASE_URL = "https://nvlabs-fi-cdn.nvidia.com/edm2"
METRICS = {"FID": "fid", "FD-DINOv2": "dino"}
OFFICIAL = re.compile(r"edm2-img(512|64)-(xs|s|m|l|xl|xxl)(-uncond)?")
REFERENCES = {"refs-img512": "img512", "refs-img64": "img64"}  # statistics of the images that networks were trained on
NOTICE = f"Official EDM2 weights and statistics are licensed {LICENSE} by NVIDIA: no commercial use."


@dataclass(frozen=True, kw_only=True)
class OfficialFile:
    """A reconstructed network on the official server.

    Args:
        recipe: it was trained by.
        nimg: images seen.
        sigma_rel: length of the average.
    """

    recipe: str
    nimg: int
    sigma_rel: float

    @property
    def stem(self) -> str:
        """Name of the file, without the suffix."""
        return f"{self.recipe}-{self.nimg // 1000:07d}-{self.sigma_rel:.3f}"

    def url(self, base: str = BASE_URL) -> str:
        """Where it is."""
        return f"{base.rstrip('/')}/posthoc-reconstructions/{self.stem}.pkl"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published result, and what it takes to repeat it.

    Args:
        name: as the authors call it.
        network: the network.
        guide: the guiding network; None for none.
        guidance: guidance weight; 1 for none.
        metric: "FID" or "FD-DINOv2".
        score: published value of the metric, with the sampler's defaults; lower is better.
    """

    name: str
    network: OfficialFile
    guide: OfficialFile | None
    guidance: float
    metric: str
    score: float

    @property
    def files(self) -> tuple[OfficialFile, ...]:
        """The network, and the guide if there is one."""
        return (self.network,) if self.guide is None else (self.network, self.guide)


def _preset(recipe: Recipe, score: Score) -> Preset:
    assert score.sigma_rel is not None and score.guidance is not None
    guide, kind = None, ""
    if score.guide:
        kind = "-autog" if score.guide_nimg else "-guid"
        nimg = score.guide_nimg or RECIPES[score.guide].duration
        guide = OfficialFile(recipe=score.guide, nimg=nimg, sigma_rel=score.guide_sigma_rel or score.sigma_rel)
    return Preset(
        name=f"{recipe.name}{kind}-{METRICS[score.metric]}",
        network=OfficialFile(recipe=recipe.name, nimg=recipe.duration, sigma_rel=score.sigma_rel),
        guide=guide,
        guidance=score.guidance,
        metric=score.metric,
        score=score.value,
    )


PRESETS = {
    one.name: one
    for recipe in RECIPES.values()
    if OFFICIAL.fullmatch(recipe.name)
    for one in (_preset(recipe, score) for score in recipe.scores)
}


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        ValueError: if there is none, with the nearest name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; {suggest(name, [*PRESETS, *REFERENCES])}")
    return PRESETS[name]


def snapshot_path(file: OfficialFile, cache: Path | None = None) -> Path:
    """Where the snapshot of an official network is, or would be."""
    return (cache or cache_folder()) / "official" / f"{file.stem}.safetensors"


def fetch(
    name: str,
    *,
    cache: Path | None = None,
    offline: bool = False,
    discard: bool = False,
    base: str = BASE_URL,
    on_file: Callable[[str], None] | None = None,
    on_progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Download the networks of a preset and convert them; what is there is not fetched again.

    Args:
        name: of the preset.
        cache: folder to keep them in; `cache_folder()` by default.
        offline: use no network.
        discard: delete the official files after their conversion.
        base: address of a mirror.
        on_file: called with a line before each step that takes time.
        on_progress: called with (bytes done, in all) of the download that runs.

    Returns:
        Snapshots of the network, and of the guide if there is one.

    Raises:
        ValueError: if there is no such preset.
        DownloadError: if a file cannot be fetched.
        Refused: if one is not what it should be.
    """
    files, say = preset(name).files, on_file or (lambda _: None)
    for file in files:
        out = snapshot_path(file, cache)
        if intact_header(out) is None:
            pickle = out.with_suffix(".pkl")
            say(f"fetching {file.url(base)}")
            download(file.url(base), pickle, kind=PICKLE, accept=read_network, offline=offline, on_progress=on_progress)
            say(f"converting {pickle.name}")
            convert_network(pickle, out, origin(pickle))
        if discard:
            out.with_suffix(".pkl").unlink(missing_ok=True)
    return tuple(snapshot_path(file, cache) for file in files)


def preset_files(name: str, cache: Path | None = None) -> tuple[Path, ...]:
    """The snapshots of a preset that was fetched before: of the network, and of the guide if there is one.

    Raises:
        ValueError: if there is no such preset.
        FileNotFoundError: if it was not fetched.
    """
    paths = tuple(snapshot_path(file, cache) for file in preset(name).files)
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"preset {name} is not in {path.parent}: run `unitgain fetch {name}` first")
    return paths


def fetch_reference(
    name: str,
    *,
    cache: Path | None = None,
    offline: bool = False,
    base: str = BASE_URL,
    on_file: Callable[[str], None] | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Download official reference statistics and check what is in them; arguments as for `fetch`.

    Returns:
        The `.pkl` file, which `unitgain metrics --reference` reads as it is, without executing anything in it.

    Raises:
        ValueError: if the name is not in `REFERENCES`.
        DownloadError: if the file cannot be fetched.
        Refused: if it holds no statistics.
        ReferenceFileError: if they cannot be those of images.
    """
    if name not in REFERENCES:
        raise ValueError(f"unknown reference {name!r}; {suggest(name, REFERENCES)}")
    path = (cache or cache_folder()) / "official" / f"{name}.pkl"
    url = f"{base.rstrip('/')}/dataset-refs/{REFERENCES[name]}.pkl"
    if on_file is not None and not path.is_file():
        on_file(f"fetching {url}")
    download(url, path, kind=PICKLE, accept=_check_reference, offline=offline, on_progress=on_progress)
    _check_reference(path)
    return path


def _check_reference(path: Path) -> None:
    official_references(read_reference(path), path.name)
