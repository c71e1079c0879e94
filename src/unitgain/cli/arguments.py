"""Arguments that several commands share, from text."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from rich.console import RenderableType

from unitgain.console import Console, next_step, say, show_json
from unitgain.draw.options import options_of
from unitgain.train.config import Device as Device

if TYPE_CHECKING:
    import torch

    from unitgain.arch import NetworkSpec

MAX_SEEDS = 10_000_000
T = TypeVar("T")
PICTURE = "for what is printed, and --plot draws instead; leave out one of them"
# An option that need not be given. What holds then is said in its own words: "(default: None)" would contradict them.
_hint = tyro.conf.arg(help_behavior_hint=lambda text: "" if text == "None" else f"(default: {text})")
Unset = Annotated[T | None, _hint]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How a command shows what it knows of runs."""

    plot: Unset[Path] = None
    """Draw it over training to this file, .svg, .png or .pdf, instead of a table."""

    json: bool = False
    """Print all of it as JSON instead of a table."""

    def check_plot(self) -> None:
        """Raise `ValueError` unless a picture can be written where it is to be, and is all that is asked for."""
        from unitgain.figures import check_picture

        if self.plot is not None:
            refuse_idle(self, ["json"], PICTURE)
            check_picture(self.plot)

    def show(
        self,
        known: T,
        figure: Callable[[T], Any],
        tables: Callable[[T], Iterable[RenderableType]],
        *words: object,
        run: Path | None,
    ) -> None:
        """Draw it, print it as JSON, or else as tables; and say what comes next.

        Args:
            known: by run.
            figure: draws it.
            tables: of it.
            words: of the command that draws it; none if there is nothing to draw.
            run: folder of a run that it is of, if any.
        """
        from unitgain.figures import save

        if self.plot is not None:
            save(figure(known), self.plot)
            say(f"wrote {self.plot}")
            if run is not None:
                next_step("see more of it", "report", run)
        elif self.json:
            show_json(known)
        else:
            for table in tables(known):
                Console().print(table)
            if words:
                next_step("draw it", *words)


def names_of(*commands: type[Any]) -> list[str]:
    """Names of the fields of commands, or of parts that they share."""
    return [field.name for command in commands for field in dataclasses.fields(command)]


def refuse_idle(command: Any, names: Iterable[str], why: str) -> None:
    """Refuse options that are given, and have no say in what a command is to do.

    Args:
        command: with its options.
        names: of those of its fields that do nothing here.
        why: when they do something, in words.

    Raises:
        ValueError: if one of them is not what it is by default.
    """
    known = {field.name: field for field in dataclasses.fields(command)}
    given = [option for name in names for option in _given(known[name], getattr(command, name))]
    if given:
        raise ValueError(f"{', '.join(given)}: {why}")


def _given(field: dataclasses.Field[Any], value: Any) -> list[str]:
    """The options of a field that are not what they are by default: of settings, those of them."""
    made = field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    if value == default:
        return []
    if dataclasses.is_dataclass(value):
        return [word for word in options_of(value, default) if word.startswith("--")]
    named = (getattr(part, "name", None) for part in getattr(field.type, "__metadata__", ()))
    return [f"--{next(filter(None, named), field.name).replace('_', '-')}"]


def parse_seeds(text: str) -> list[int]:
    """Seeds from text: `7`, a list `1,2,5`, a range `0-63` with both ends, or a mixture.

    Raises:
        ValueError: if a part is none of these, a seed is out of range, or comes twice.
    """
    from unitgain.sample.seeds import check_seeds

    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise ValueError(f"cannot read the seeds {part!r}: write 7, 1,2,5 or a range as 0-63")
        last = int(match[2] or match[1])
        check_seeds([last])
        if last - int(match[1]) >= MAX_SEEDS:
            raise ValueError(f"the seeds {part!r} are more than {MAX_SEEDS:,} images: draw them in parts")
        seeds += range(int(match[1]), last + 1)
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"the seeds {text!r} name an image twice")
    return seeds


def pick_device(device: Device) -> "torch.device":
    """The device of that name; "auto" is the GPU where there is one.

    Raises:
        ValueError: if a GPU is asked for and torch finds none.
    """
    from unitgain.parallel import pick_device

    return pick_device(device)


def draw_next(
    network: object, out: Path, *options: str, aim: str = "draw images", told: tuple["NetworkSpec", str] | None = None
) -> None:
    """Say how images are drawn with a network, in words of the command line.

    Args:
        network: as `sample` takes it.
        out: where to.
        options: of `sample`.
        aim: what for.
        told: its spec, and the data that it was trained on, whose rows a network with conditions is told of.
    """
    if told is not None and told[0].conditions and Path(told[1]).exists():
        options = (*options, "--conditions", told[1])
    next_step(aim, "sample", network, *options, "--out", out, "--grid")
