"""What is on screen as a command line and as Python: both draw the same images, to the byte."""

import io
import shlex
import zipfile
from collections.abc import Sequence

import torch

from unitgain.card import model_card
from unitgain.data.images import grid, png, to_image
from unitgain.denoiser import Denoiser, parameter_count
from unitgain.draw.options import number, options_of, sample_options
from unitgain.draw.settings import DrawSettings
from unitgain.ema import PowerProfile, describe
from unitgain.evaluate.images import as_ranges
from unitgain.explore.session import Picture, Session
from unitgain.explore.sources import PRECISION, Run, Source
from unitgain.explore.views import Average, View

OUT = "drawn"


def command_lines(session: Session, view: View, out: str = OUT) -> list[list[str]]:
    """The words of the commands that draw a view: averages are reconstructed, then images drawn.

    Args:
        session: of the view.
        view: what is on screen.
        out: folder for the images.

    Raises:
        ValueError: as `Session.check`.
    """
    view = session.drawn_as(view)
    commands = [
        ["unitgain", "ema", "reconstruct", source.name, number(average.length or 0), "--t", number(average.t or 0)]
        for source, average in _averages(session, view)
    ]
    words = ["unitgain", "sample", session.source.path(view.average), "--out", out]
    words += ["--seeds", as_ranges(sorted(view.seeds))]
    label = view.settings.label
    if label is not None:
        chosen = session.classes.text(session.classes.numbers(label if isinstance(label, tuple) else (label,)))
        words += [f"--class={chosen}"] if chosen.startswith("-") else ["--class", chosen]
    words += sample_options(view.settings, _guide(session, view), view.settings.guidance)
    return [*commands, words]


def shell(session: Session, view: View, out: str = OUT) -> str:
    """`command_lines` as text for a shell, one command to a line."""
    return "\n".join(map(shlex.join, command_lines(session, view, out)))


def python(session: Session, view: View) -> str:
    """A program that draws a view: `pictures` are its images, of Pillow, in the order of its seeds.

    Raises:
        ValueError: as `Session.check`.
    """
    view = session.drawn_as(view)
    settings, sampler = view.settings, type(view.settings.sampler).__name__
    lines = ["import unitgain", "from unitgain.draw import DrawSettings, guide_by, open_networks"]
    lines += [f"from unitgain.sample import {sampler}", ""]
    for source, average in _averages(session, view):
        folder = f"{source.name}/ema"
        lines.append(f"unitgain.reconstruct({source.name!r}, [{average.length!r}], {folder!r}, t={average.t!r})")
    lines.append(f"settings = {_settings(settings)}")
    guided = "" if view.guide is None else f", guide={_guide(session, view)!r}, guidance={settings.guidance!r}"
    main = session.source.path(view.average)
    lines.append(f"main, guide, settings = open_networks({main!r}, {session.device.type!r}, settings{guided})")
    lines.append("denoiser = guide_by(main, guide, settings)")
    lines.append(f"pictures = unitgain.sample_images(denoiser, {_seeds(view.seeds)}, settings=settings)")
    return "\n".join(lines) + "\n"


def images_png(pictures: Sequence[Picture]) -> bytes:
    """Images in rows, as one PNG; of one image the file that `unitgain sample` writes."""
    pixels = torch.stack([picture.pixels for picture in pictures])
    return png(to_image(pixels[0]) if len(pixels) == 1 else grid(pixels))


def card(session: Session, view: View, pictures: Sequence[Picture]) -> bytes:
    """A model card with the images of a view, and the commands that draw them: a zip of README.md and images.png.

    Args:
        session: of the view.
        view: what was drawn.
        pictures: of the view.

    Raises:
        ValueError: as `Session.check`.
    """
    view = session.check(view)
    header = session.source.header()
    if view.average.length is not None and view.average.t is not None:
        profile = describe(PowerProfile.of(view.average.t, view.average.length))
        header = header.replace(nimg=round(view.average.t), profile=profile)
    with torch.device("meta"):
        parameters = parameter_count(Denoiser(header.network, header.sigma_data))
    text = model_card(header, parameters, PRECISION)
    text += (
        f"\n## Images\n\n![images of seeds {as_ranges(view.seeds)}](images.png)\n\n```sh\n{shell(session, view)}\n```\n"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("README.md", text)
        file.writestr("images.png", images_png(pictures))
    return buffer.getvalue()


def _averages(session: Session, view: View) -> list[tuple[Source, Average]]:
    """What must be reconstructed, each once."""
    guide = None if view.guide is None else session.guides[view.guide]
    wanted = [(session.source, view.average), *([] if guide is None else [(guide, view.guide_average)])]
    return [pair for index, pair in enumerate(wanted) if isinstance(pair[0], Run) and pair not in wanted[:index]]


def _guide(session: Session, view: View) -> str | None:
    guide = None if view.guide is None else session.guides[view.guide]
    return view.guide if guide is None else guide.path(view.guide_average)


def _seeds(seeds: Sequence[int]) -> str:
    first, last = seeds[0], seeds[-1]
    return f"range({first}, {last + 1})" if list(seeds) == list(range(first, last + 1)) else repr(list(seeds))


def _settings(settings: DrawSettings) -> str:
    """The settings as an expression, as short as can be."""
    default = DrawSettings()
    changed = options_of(settings.replace(guidance=default.guidance, sampler=default.sampler), default)
    names = [word.removeprefix("--").replace("-", "_") for word in changed if word.startswith("--")]
    values = [f"{name}={getattr(settings, name)!r}" for name in names]
    if settings.sampler != default.sampler:
        values.insert(0, f"sampler={settings.sampler!r}")
    return f"DrawSettings({', '.join(values)})"
