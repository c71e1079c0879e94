"""Networks by name, with what a record says of them, and pairs of them that guide."""

from dataclasses import dataclass
from typing import Any

import torch

from unitgain.checkpoint.snapshot import DTYPES, Snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser
from unitgain.draw.settings import DrawSettings
from unitgain.guide import Guided
from unitgain.hub import locate
from unitgain.infer import prepare
from unitgain.serial import to_dict

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


def open_network(
    name: str,
    device: torch.device | str = "cpu",
    dtype: str = "float32",
    exact: bool = False,
    compile: bool = False,
    winograd: bool = True,
    kernels: bool = False,
    graph: bool = False,
) -> Network:
    """Open whatever `unitgain.load` opens, prepared for inference.

    Args:
        name: path of a snapshot, name of a preset, or repository of the Hub.
        device: where to put it.
        dtype: precision to evaluate it in: "float32", "bfloat16" or "float16".
        exact: leave it as it was trained, which is slower and differs in the rounding.
        compile: compile it, unless it is left as it was trained.
        winograd: let 3x3 convolutions be filtered, likewise.
        kernels: run it on the Triton kernels, likewise.
        graph: record CUDA graphs of it, likewise.

    Raises:
        FileNotFoundError: if there is none.
        SnapshotError: if it is damaged.
        HubError: if the repository cannot be reached.
        ValueError: if kernels or graphs are asked for where they cannot be.
    """
    with Snapshot(locate(name)) as snapshot:
        denoiser, header = snapshot.denoiser(mapped=not exact), snapshot.header
        facts = {"recipe": header.recipe, "nimg": header.nimg, "profile": header.profile}
        record = {"sha256": snapshot.sha256, **facts}
    denoiser = denoiser.to(device)
    if exact:
        denoiser.dtype = DTYPES[dtype]
    else:
        denoiser = prepare(denoiser, DTYPES[dtype], compile=compile, winograd=winograd, kernels=kernels, graph=graph)
    return Network(name=name, denoiser=denoiser, record=record)


def guide_by(main: Network, guide: Network | None, settings: DrawSettings) -> Denoiser | Guided:
    """The main network guided as the settings say, or alone where their weight is 1.

    Args:
        main: what is guided.
        guide: away from which; None for `main` without its label.
        settings: weight and interval.

    Raises:
        ValueError: if the networks do not fit each other, or the interval is out of range.
    """
    if settings.guidance == 1:
        return main.denoiser
    return Guided(main.denoiser, guide and guide.denoiser, settings.guidance, settings.interval)
