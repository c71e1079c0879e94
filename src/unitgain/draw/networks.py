"""Networks by name, with what a record says of them, and pairs of them that guide."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unitgain.checkpoint.snapshot import Snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser
from unitgain.draw.settings import DrawSettings
from unitgain.guide import Guided
from unitgain.hub import locate
from unitgain.infer import prepare
from unitgain.presets import PRESETS, preset_files
from unitgain.serial import to_dict

DEFAULTS = DrawSettings()
SELF = "self"  # the guide that is the main network without its label


@dataclass(frozen=True, kw_only=True)
class Network:
    """A denoiser, and where it comes from.

    Attributes:
        name: as it was asked for.
        denoiser: in evaluation mode, with its encoder.
        record: what a manifest says of it, as JSON: hash of its contents, and recipe, images seen and averaging profile
            where they are known.
    """

    name: str
    denoiser: Denoiser
    record: dict[str, Any]

    @property
    def encoder(self) -> dict[str, Any]:
        """How images become what the network sees; the official convention for RGB where nothing is known."""
        return self.denoiser.encoder or to_dict(PixelEncoder())


def open_network(name: str, device: torch.device | str = "cpu", settings: DrawSettings = DEFAULTS) -> Network:
    """Open whatever `unitgain.load` opens, prepared for inference unless the settings say `exact`.

    Args:
        name: path of a snapshot, name of a preset, or repository of the Hub.
        device: where to put it.
        settings: precision, and how it is prepared.

    Raises:
        FileNotFoundError: if there is none.
        SnapshotError: if it is damaged.
        HubError: if the repository cannot be reached.
        ValueError: if kernels or graphs are asked for where they cannot be.
    """
    name = str(name)  # of a path, too
    with Snapshot(locate(name)) as snapshot:
        denoiser, header = snapshot.denoiser(mapped=not settings.exact), snapshot.header
        facts = {"recipe": header.recipe, "nimg": header.nimg, "profile": header.profile}
        record = {"sha256": snapshot.sha256, **facts}
    return Network(name=name, denoiser=ready(denoiser, device, settings), record=record)


def ready(denoiser: Denoiser, device: torch.device | str, settings: DrawSettings) -> Denoiser:
    """A denoiser on its device, prepared for inference unless the settings say `exact`.

    Raises:
        ValueError: if kernels or graphs are asked for where they cannot be.
    """
    denoiser = denoiser.to(device)
    if settings.exact:
        denoiser.dtype = settings.precision(device)
        return denoiser
    return prepare(
        denoiser,
        settings.precision(device),
        compile=settings.compile,
        winograd=not settings.no_winograd,
        kernels=settings.kernels,
        graph=settings.graph,
    )


def open_networks(
    network: str,
    device: torch.device | str = "cpu",
    settings: DrawSettings = DEFAULTS,
    *,
    guide: str | None = None,
    guidance: float | None = None,
) -> tuple[Network, Network | None, DrawSettings]:
    """A network, what guides it if that is another one, and the settings with the weight of guidance.

    Args:
        network: as for `open_network`; a preset brings its guide and weight, where neither is given.
        device: where to put both.
        settings: of both; their own weight of guidance does not count.
        guide: what guides: a network, or "self", the network without its label.
        guidance: weight; 1 is none.

    Raises:
        ValueError: if guide and weight do not go together, or the guide is the network itself; and whatever
            `open_network` raises.
    """
    network, guide = str(network), None if guide is None else str(guide)
    named = guide is not None or guidance is not None or Path(network).exists()
    if not named and network in PRESETS and PRESETS[network].guide is not None:
        guide, guidance = str(preset_files(network)[1]), PRESETS[network].guidance
    if guide is not None and guidance is None:
        raise ValueError(f"--guide {guide} without --guidance: say how much, as in --guidance 1.5")
    if guide is None and (guidance not in (None, 1) or settings.interval is not None):
        raise ValueError("--guidance and --interval need a --guide: a network, or self")
    for option, value in (("guide", guide), ("interval", settings.interval)):
        if guidance == 1 and value is not None:
            raise ValueError(f"--{option} is for guidance, and --guidance 1 is none: leave --{option} out")
    main = open_network(network, device, settings)
    other = None if guide in (None, SELF) else open_network(str(guide), device, settings)
    if other is not None and other.record["sha256"] == main.record["sha256"]:
        raise ValueError(
            f"{other.name} is to guide itself, which is no guidance: w D + (1 - w) D = D. Name another network as the "
            f"guide, or --guide {SELF} for the network without its label"
        )
    return main, other, settings.replace(guidance=1.0 if guidance is None else guidance)


def guide_by(main: Network, guide: Network | None, settings: DrawSettings) -> Denoiser | Guided:
    """The main network guided as the settings say, or alone where their weight is 1.

    Args:
        main: what is guided.
        guide: away from which; None for `main` without its label.
        settings: weight and interval.

    Raises:
        ValueError: if the networks do not fit each other, the interval is out of range, or the network was never
            trained without what it is to do without.
    """
    if settings.without and (settings.guidance == 1 or guide is not None):
        raise ValueError("--without says what a network does without to guide itself: it goes with --guide self")
    if settings.guidance == 1:
        return main.denoiser
    without = settings.without or None
    return Guided(main.denoiser, guide and guide.denoiser, settings.guidance, settings.interval, without)
