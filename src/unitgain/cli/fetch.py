"""`unitgain fetch`."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unitgain.cli.arguments import Unset, draw_next, refuse_idle
from unitgain.console import byte_bar, say
from unitgain.files import cache_folder


@dataclass(frozen=True)
class Fetch:
    """Download an official network by the name of its preset, and convert it. Without a name: list what there is.

    refs-img512 and refs-img64 are the reference statistics of the official scores, for `unitgain metrics --reference`.

    Files are kept in $UNITGAIN_CACHE (default: ~/.cache/unitgain). An interrupted download goes on when the command is
    run again. The SHA-256 of a file is taken at its first download and checked ever after.
    """

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")] = ""
    """Name of the preset, such as edm2-img512-s-guid-dino, or of reference statistics, such as refs-img512."""

    offline: bool = False
    """Use no network: only what is in the cache. HF_HUB_OFFLINE=1 says the same."""

    discard: bool = False
    """Delete the official .pkl files after their conversion."""

    cache: Unset[Path] = None
    """Folder to keep files in. Default: $UNITGAIN_CACHE, else ~/.cache/unitgain."""

    mirror: Unset[str] = None
    """Address that the files lie under. Default: that of the official release."""

    def run(self) -> None:
        """Fetch, convert and say where the snapshots are."""
        from unitgain.presets import BASE_URL, NOTICE, REFERENCES, fetch, preset

        if not self.preset:
            refuse_idle(self, ["offline", "discard", "mirror"], "name what to fetch; the list needs no network")
            _list(cache_folder() if self.cache is None else self.cache)
            return
        if self.preset in REFERENCES:
            self._reference()
            return
        chosen = preset(self.preset)
        say(NOTICE)
        with byte_bar("fetching") as progress:
            network, *guides = fetch(
                self.preset,
                cache=self.cache,
                offline=self.offline,
                discard=self.discard,
                base=self.mirror or BASE_URL,
                on_file=say,
                on_progress=progress,
            )
        say(f"network: {network}")
        for guide in guides:
            say(f"guide: {guide}, guidance weight {chosen.guidance:g}")
        say(f"published {chosen.metric}: {chosen.score:g}")
        name, words = self.preset, []
        if self.cache is not None:
            name = network
            words = [word for guide in guides for word in ("--guide", str(guide), "--guidance", f"{chosen.guidance:g}")]
        draw_next(name, Path(f"samples-{self.preset}"), *words)

    def _reference(self) -> None:
        from unitgain.presets import BASE_URL, NOTICE, fetch_reference

        if self.discard:
            raise ValueError("--discard is for networks, which are converted; references are used as they are")
        say(NOTICE)
        with byte_bar("fetching") as progress:
            path = fetch_reference(
                self.preset,
                cache=self.cache,
                offline=self.offline,
                base=self.mirror or BASE_URL,
                on_file=say,
                on_progress=progress,
            )
        say(f"reference: {path}")
        say(f"for metrics, sweep and tune: --reference {shlex.quote(str(path))}")


def _list(cache: Path) -> None:
    from unitgain.presets import NOTICE, PRESETS, REFERENCES

    width = max(map(len, PRESETS))
    for one in PRESETS.values():
        guide = "" if one.guide is None else f"  {one.guidance:.2f} x {one.guide.stem}"
        say(f"{one.name:<{width}}  {one.metric:<9} {one.score:>6.2f}  sigma_rel {one.network.sigma_rel:.3f}{guide}")
    say(f"{'  '.join(REFERENCES):<{width}}  reference statistics, FID and FD-DINOv2")
    say(f"{NOTICE}\nCache: {cache}")
