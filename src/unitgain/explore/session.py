"""The engine of the explorer: pictures of any average of a run, at once where they were drawn before."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from unitgain.classes import Classes
from unitgain.denoiser import tile_size
from unitgain.draw.animation import keep_step
from unitgain.draw.decode import painter_of
from unitgain.draw.images import draw_images
from unitgain.draw.networks import SELF, Network, guide_by
from unitgain.draw.preview import Preview
from unitgain.draw.rows import check_told
from unitgain.draw.settings import PREPARED, DrawSettings
from unitgain.explore.jobs import Jobs, Kept, Report
from unitgain.explore.sources import Run, Source, open_source
from unitgain.explore.views import Average, View
from unitgain.presets import PRESETS, preset_files
from unitgain.sample import Step
from unitgain.text import brief, evenly

LEAST_BATCH = 8  # images in flight
FRAMES = 64  # of a path
MOST_PATH = 2**12  # images on the way, which are all kept until it ends
PICTURES = 2**26  # bytes of pixels that are kept
DEFAULTS = DrawSettings(dtype="auto")


@dataclass(frozen=True)
class Reading:
    """Snapshots are read, to reconstruct an average.

    Attributes:
        done: bytes.
        total: bytes in all.
    """

    done: int
    total: int


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that is finished.

    Attributes:
        seed: its seed.
        label: its class; None of an unconditional network.
        pixels: uint8 `[C, H, W]`.
    """

    seed: int
    label: int | None
    pixels: UInt8[Tensor, "c h w"]


Event = Reading | Preview | Picture | None


class Session:
    """A run, or a network, that is looked at; for any number of threads at once.

    An average is reconstructed in memory when a view asks for it, and the last few are kept. So are pictures: what does
    not change is not drawn again. What several ask for at the same time is made once, and given up when nobody waits
    for it any more.

    Args:
        source: the folder of a run, a snapshot, a preset, or a repository of the Hub.
        guide: another of these that may guide; beside it there are the run itself, and the network without its label.
        device: where to draw.
        memory: bytes of networks that are kept; the one that is being made comes on top.
        settings: how views draw that do not say otherwise.

    Attributes:
        source: where the network comes from.
        guides: what may guide, by name; None for the network itself without its label.
        settings: as above.

    Raises:
        FileNotFoundError: if there is no such run or network.
        SnapshotError: if a snapshot cannot be opened.
        ValueError: if the network is told more than a class, and `settings` do not say what.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        guide: str | Path | None = None,
        device: torch.device | str = "cpu",
        memory: int = 2**31,
        settings: DrawSettings = DEFAULTS,
    ) -> None:
        self.source, self.device, self.settings = open_source(str(source)), torch.device(device), settings
        header = self.source.header()
        check_told(header.network, settings)
        self.spec, self.recipe = header.network, header.recipe
        self.classes = Classes(header.network.label_dim, header.classes)
        self.guides: Mapping[str, Source | None] = MappingProxyType(dict(self._guides(guide, header.label_dropout)))
        self._networks: Kept[Network] = Kept(memory, lambda network: network_bytes(network.denoiser))
        self._pictures: Kept[Picture] = Kept(PICTURES, lambda picture: picture.pixels.nbytes)
        self._open = Jobs("unitgain-open")
        self._draw = Jobs("unitgain-draw")

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is under way, and let the threads end."""
        self._draw.close()
        self._open.close()

    @property
    def active(self) -> int:
        """Reconstructions and drawings that are under way, or wait to be."""
        return self._open.active + self._draw.active

    @property
    def network_bytes(self) -> int:
        """Of the networks that are kept."""
        return self._networks.nbytes

    def start(self, view: View | None = None) -> View:
        """A first view: by default the newest average; without guidance, of a preset with its own guide and weight."""
        name, view = self.source.name, view or View(settings=self.settings)
        if name in PRESETS and PRESETS[name].guide is not None and not view.guided and len(self.guides) > 0:
            guide = next(one for one in self.guides if one != SELF)
            view = view.replace(guide=guide).with_settings(guidance=PRESETS[name].guidance)
        return self.check(view)

    def check(self, view: View) -> View:
        """The view with everything said that it leaves open, and nothing that does not count; reads headers alone.

        Raises:
            ValueError: if the network does not know a class, or nothing of the name guides.
            FileNotFoundError, SnapshotError: if the run has gone, or is damaged.
        """
        settings = view.settings.with_classes(self.classes)
        view = view.replace(average=self.source.resolve(view.average), settings=settings)
        if not view.guided:
            return view.replace(guide=None, guide_average=Average()).with_settings(interval=None, without=())
        if view.guide is None or view.guide not in self.guides:
            known = ", ".join(self.guides) or "nothing"
            raise ValueError(
                f"guidance of {settings.guidance:g} needs a guide, which {brief(view.guide)} is none of: {known}"
            )
        guide = self.guides[view.guide]
        return view.replace(guide_average=Average() if guide is None else guide.resolve(view.guide_average))

    def drawn_as(self, view: View) -> View:
        """As `check`, and not guided where the guide is the very network that it guides, whose images those are."""
        view = self.check(view)
        guide = None if view.guide is None else self.guides[view.guide]
        if guide is None or guide.key(view.guide_average) != self.source.key(view.average):
            return view
        return self.check(view.with_settings(guidance=1.0))

    def fit(self, average: Average, guide: str | None = None) -> float | None:
        """Relative error of an average's profile, of the source or of a guide; None of a network as it is.

        Raises:
            ValueError: if it is out of reach.
        """
        source = self.source if guide is None else self.guides[guide]
        if not isinstance(source, Run):
            return None
        planned = source.plan(source.resolve(average))
        return planned.error(planned.targets[0])

    def draw(self, view: View) -> Generator[Event, None, None]:
        """Draw a view.

        Pictures that were drawn before come first and at once. Close the generator to leave: what nobody else waits for
        is then given up, within one evaluation of the network.

        Yields:
            What happens: bytes read, previews of images under way, images that are finished; None now and then while
            nothing does.

        Raises:
            ValueError: as `check`, if an average is out of reach, or network, guide and settings do not fit.
            FileNotFoundError, SnapshotError: if the run has gone, or is damaged.
        """
        view = self.drawn_as(view)
        key = self._key(view)
        missing = []
        for seed in view.seeds:
            picture = self._pictures.get((key, seed))
            if picture is None:
                missing.append(seed)
            else:
                yield picture
        if not missing:
            return
        main, guide = yield from self._networks_of(view)
        batch = max(tile_size(main.denoiser, self.device), LEAST_BATCH)
        for start in range(0, len(missing), batch):
            seeds = tuple(missing[start : start + batch])
            work = partial(self._draw_batch, main, guide, view.settings, seeds, key)
            yield from (yield from self._draw.follow((key, seeds), work))

    def pictures(self, view: View) -> list[Picture]:
        """The images of a view, in the order of its seeds; errors as in `draw`."""
        found = {event.seed: event for event in self.draw(view) if isinstance(event, Picture)}
        return [found[seed] for seed in view.seeds]

    def path(self, view: View) -> Generator[Event, None, list[Preview]]:
        """The way of a view's images out of noise; yields and errors as `draw`.

        Returns:
            A preview per noise level at which the network is asked, from noise to images, at most `FRAMES`.

        Raises:
            ValueError: also if so many images at so many noise levels would take too much memory.
        """
        view = self.drawn_as(view)
        if len(view.seeds) * view.settings.steps > MOST_PATH:
            raise ValueError(
                f"{len(view.seeds)} images at {view.settings.steps} noise levels are too much for a path, which keeps "
                f"at most {MOST_PATH:,} images: name fewer seeds or steps"
            )
        main, guide = yield from self._networks_of(view)
        work = partial(self._draw_path, main, guide, view)
        return (yield from self._draw.follow(("path", self._key(view), view.seeds), work))

    def _guides(self, guide: str | Path | None, label_dropout: float | None) -> Iterator[tuple[str, Source | None]]:
        if guide is not None and str(guide) != SELF:
            yield str(guide), open_source(str(guide))
        elif self.source.name in PRESETS and PRESETS[self.source.name].guide is not None:
            file = str(preset_files(self.source.name)[1])
            yield file, open_source(file)
        if isinstance(self.source, Run) and str(guide) != self.source.name:
            yield self.source.name, self.source
        if self.classes.count and label_dropout != 0:
            yield SELF, None

    def _key(self, view: View) -> object:
        """What stands for all that pixels depend on but the seed."""
        guide = None if view.guide is None else self.guides[view.guide]
        about = None if guide is None else guide.key(view.guide_average)
        return self.source.key(view.average), view.guide, about, view.settings

    def _networks_of(self, view: View) -> Generator[Event, None, tuple[Network, Network | None]]:
        main = yield from self._network(self.source, view.average, view.settings)
        source = None if view.guide is None else self.guides[view.guide]
        if source is None:
            return main, None
        return main, (yield from self._network(source, view.guide_average, view.settings))

    def _network(self, source: Source, average: Average, settings: DrawSettings) -> Generator[Event, None, Network]:
        key = source.key(average), *(getattr(settings, name) for name in ("dtype", "exact", *PREPARED))
        if (network := self._networks.get(key)) is not None:
            return network

        def work(report: Report) -> Network:
            if (ready := self._networks.get(key)) is not None:
                return ready
            on_bytes = lambda done, total: report(Reading(done, total))  # noqa: E731
            return self._networks.put(key, source.open(average, self.device, settings, on_bytes))

        return (yield from self._open.follow(key, work))

    def _draw_path(self, main: Network, guide: Network | None, view: View, report: Report) -> list[Preview]:
        decode = painter_of(main.denoiser, view.settings.vae)
        steps: list[Step] = []

        def on_step(step: Step) -> None:
            keep_step(steps, step)
            report(Preview(step, decode, main.denoiser.sigma_data))

        denoiser = guide_by(main, guide, view.settings)
        for _ in draw_images(denoiser, decode, view.seeds, view.settings, batch=len(view.seeds), on_step=on_step):
            pass
        return [Preview(step, decode, main.denoiser.sigma_data) for step in evenly(steps, FRAMES)]

    def _draw_batch(
        self,
        main: Network,
        guide: Network | None,
        settings: DrawSettings,
        seeds: Sequence[int],
        key: object,
        report: Report,
    ) -> list[Picture]:
        decode = painter_of(main.denoiser, settings.vae)
        sigma_data = main.denoiser.sigma_data

        def on_step(step: Step) -> None:
            report(Preview(step, decode, sigma_data))

        drawn = draw_images(guide_by(main, guide, settings), decode, seeds, settings, batch=len(seeds), on_step=on_step)
        found = [
            Picture(seed, None if labels is None else int(labels[i]), pixels[i].clone())
            for part, labels, pixels in drawn
            for i, seed in enumerate(part)
        ]
        return [self._pictures.put((key, picture.seed), picture) for picture in found]


def network_bytes(denoiser: nn.Module) -> int:
    """Bytes of the tensors of a network, prepared or not, with those that its passes in C hold."""
    sizes: dict[int, int] = {}
    for module in denoiser.modules():
        passes = [vars(held) for held in vars(module).values() if hasattr(held, "__dict__")]
        for held in (vars(module), module._parameters, module._buffers, *passes):
            for tensor in held.values():
                if isinstance(tensor, Tensor):
                    sizes[id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(sizes.values())
