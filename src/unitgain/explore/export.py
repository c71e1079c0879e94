"""The explorer as one file: images drawn beforehand over EMA lengths, guidance and seeds; no server, no script."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from unitgain.ema import check_sigma_rel
from unitgain.evaluate.images import as_ranges
from unitgain.explore.session import Picture, Session
from unitgain.explore.sources import Run
from unitgain.explore.takeaway import shell
from unitgain.explore.views import Average, View
from unitgain.posthoc.solve import WARN_ABOVE
from unitgain.report.page import MOST, code, dials, page, paragraph, picture, table
from unitgain.report.samples import LENGTHS, sheet
from unitgain.sample.seeds import check_seeds
from unitgain.size import show_size
from unitgain.text import evenly

PAGE = 8  # seeds of a picture
HOW_TO = (
    "Move along the bars by clicks or with the arrow keys: the same seeds, drawn with another average of the weights. "
    "Short averages are of the last part of training, long ones of most of it."
)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What is drawn beforehand.

    Args:
        lengths: EMA lengths sigma_rel; none for those from 0.02 to 0.25 that the run allows.
        weights: of guidance; 1 is none.
        seeds: of the images, eight to a picture.
        view: of all else: the guide and its average, where averages end, sampler, steps, class.

    Raises:
        ValueError: if a value is out of range, or there are more stops than a bar has room for.
    """

    lengths: tuple[float, ...] = ()
    weights: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = tuple(range(3 * PAGE))
    view: View = field(default_factory=View)

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        for length in self.lengths:
            check_sigma_rel(length)
        for name, count in (("lengths", len(self.lengths)), ("weights of guidance", len(self.weights))):
            if count > MOST or len(set(getattr(self, name.split()[0]))) < count:
                raise ValueError(f"{count} {name}: at most {MOST}, each once, have room on a page")
        if not self.weights or not self.seeds or len(self.seeds) > MOST * PAGE:
            raise ValueError(f"a page has 1 to {MOST * PAGE} seeds and at least one weight, not {len(self.seeds)}")

    def pages(self) -> list[tuple[int, ...]]:
        """The seeds of each picture."""
        return [self.seeds[start : start + PAGE] for start in range(0, len(self.seeds), PAGE)]


def export_page(
    session: Session, config: ExportConfig, *, on_images: Callable[[float, int], None] | None = None
) -> str:
    """Draw everything, and put it into one HTML file.

    Args:
        session: of the run, or of a network as it is, which has no lengths.
        config: what is drawn.
        on_images: called with (images drawn, images in all).

    Raises:
        ValueError: as `Session.draw`, if none of the lengths is within reach, or what is said of guidance has no weight
            to go for.
    """
    guided = next((weight for weight in config.weights if weight != 1), 1.0)
    settings = config.view.settings
    said = {"guide": config.view.guide, "interval": settings.interval, "without": settings.without}
    if guided == 1 and (idle := " and ".join(f"--{name}" for name, value in said.items() if value)):
        raise ValueError(
            f"{idle} and no weight of guidance but 1, which is none: name others (--weights 1,1.5,2), or leave {idle} "
            "out"
        )
    base = session.check(config.view.replace(seeds=config.seeds[:1]).with_settings(guidance=guided))
    lengths = _lengths(session, config)
    pages = config.pages()
    axes = {
        "EMA length": [f"{length:g}" for length in lengths if length is not None],
        "Guidance": [f"{weight:g}" for weight in config.weights],
        "Seeds": [as_ranges(seeds) for seeds in pages],
    }
    total, done = len(lengths) * len(config.weights) * len(config.seeds), 0
    figures: dict[tuple[int, ...], str] = {}
    for (i, length), (k, weight) in itertools.product(enumerate(lengths), enumerate(config.weights)):
        view = config.view.replace(average=Average(length=length, t=base.average.t)).with_settings(guidance=weight)
        for n, seeds in enumerate(pages):
            drawn = view.replace(seeds=seeds)
            figures[(i, k, n) if axes["EMA length"] else (k, n)] = _figure(session, drawn, session.pictures(drawn))
            done += len(seeds)
            if on_images is not None:
                on_images(done, total)
    axes = {name: stops for name, stops in axes.items() if stops}
    chosen = [0 if number else len(stops) // 2 for number, stops in enumerate(axes.values())]
    choice = dials("explore", axes, figures, chosen)
    sections = [("Drawn", paragraph(HOW_TO) + choice), ("What this is", _about(session, base))]
    lead = f"{session.recipe}: one training run, its weight average chosen afterwards by looking."
    return page(f"Explore {session.source.title}", lead, sections)


def _lengths(session: Session, config: ExportConfig) -> Sequence[float | None]:
    """The lengths to draw; None alone of a network that has none to choose."""
    if not isinstance(session.source, Run):
        if config.lengths:
            raise ValueError(f"{session.source.name} is one network, without lengths to choose from: leave out lengths")
        return [None]
    if config.lengths:
        return sorted(config.lengths)
    errors = session.source.errors(LENGTHS, config.view.average.t)
    found = [length for length, error in zip(LENGTHS, errors, strict=True) if error <= WARN_ABOVE]
    if not found:
        raise ValueError(f"no length is within reach of the snapshots in {session.source.name}: name some (--lengths)")
    return evenly(found, MOST)


def _figure(session: Session, view: View, pictures: Sequence[Picture]) -> str:
    names = [session.classes.label(one.label) for one in pictures if one.label is not None]
    image = sheet(torch.stack([one.pixels for one in pictures]), names)
    return picture(image, ", ".join(_said(session, view)), more=code(shell(session, view)))


def _said(session: Session, view: View) -> Iterator[str]:
    if (error := session.fit(view.average)) is not None:
        off = ": far from what was asked for" if error > WARN_ABOVE else ""
        yield f"EMA length {view.average.length:g} (error of the fit {error:.1e}{off})"
    yield f"guidance {view.settings.guidance:g}" if view.guided else "no guidance"
    yield f"seeds {as_ranges(view.seeds)}"


def _about(session: Session, view: View) -> str:
    spec, settings = session.spec, view.settings
    rows = [
        ("run or network", session.source.name),
        ("recipe", session.recipe),
        ("images", f"{spec.channels} channels of {show_size(spec.size)}"),
        ("classes", session.classes.summary() if session.classes.count else "none"),
        ("sampler", f"{settings.sampler.name}, {settings.steps} steps"),
    ]
    if view.average.t is not None:
        rows.append(("averages end at", f"{view.average.t:,.0f} images"))
    if view.guide is not None:
        average = view.guide_average
        of = "" if average.length is None else f", EMA length {average.length:g} at {average.t:,.0f} images"
        rows.append(("guide", f"{view.guide}{of}"))
    return table(("", ""), rows)
