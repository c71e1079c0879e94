"""Arguments that several commands share, from text."""

import re
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from unitgain.train.config import Device as Device

if TYPE_CHECKING:
    import torch

MAX_SEEDS = 10_000_000
T = TypeVar("T")
# An option that need not be given. What holds then is said in its own words: "(default: None)" would contradict them.
_hint = tyro.conf.arg(help_behavior_hint=lambda text: "" if text == "None" else f"(default: {text})")
Unset = Annotated[T | None, _hint]


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
