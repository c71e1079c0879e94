"""`unitgain push`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unitgain.cli.arguments import Unset, draw_next
from unitgain.console import next_step, say
from unitgain.draw.options import options_of


@dataclass(frozen=True)
class Push:
    """Publish a snapshot as a repository of the Hugging Face Hub, with a model card of what it says of itself.

    Log in before with `hf auth login`, or set HF_TOKEN. `unitgain.load("org/name")` opens what was pushed. A repository
    that is there gets a new commit.
    """

    snapshot: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SNAPSHOT")]
    """A .safetensors file of training, reconstruction or conversion; or a folder, or preset, that holds one."""

    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ORG/NAME")]
    """The repository; it is made if it is not there."""

    private: bool = False
    """Make a new repository private. One that is there stays as it is."""

    dry_run: Unset[Path] = None
    """Send nothing: write what would be sent to this folder, and print the model card."""

    license: Unset[str] = None
    """License of the weights, as the Hub writes it, such as apache-2.0. Default: what the snapshot says."""

    data: Unset[str] = None
    """What it was trained on, for the card. Default: what the snapshot says."""

    metrics: Unset[str] = None
    """Measured results, for the card: FID=3.2,KID=0.001."""

    revision: Unset[str] = None
    """Branch to commit to. Default: the main one."""

    message: str = "Upload a unitgain snapshot"
    """Of the commit."""

    def run(self) -> None:
        """Send the repository and print its address, or write it to a folder."""
        from unitgain.hub import CARD, check_repository, push_to_hub, save_pretrained

        check_repository(self.repository)
        metrics = parse_metrics(self.metrics) if self.metrics is not None else None
        if self.dry_run is not None:
            folder = save_pretrained(
                self.snapshot,
                self.dry_run,
                data=self.data,
                license=self.license,
                metrics=metrics,
                repo_id=self.repository,
            )
            say((folder / CARD).read_text(encoding="utf-8"))
            say(f"{folder} holds what would be sent; nothing was")
            given = options_of(self, Push(self.snapshot, self.repository, dry_run=self.dry_run))
            next_step("send it", "push", self.snapshot, self.repository, *given)
            return
        address = push_to_hub(
            self.snapshot,
            self.repository,
            private=self.private or None,  # else as the organization has it
            revision=self.revision,
            message=self.message,
            data=self.data,
            license=self.license,
            metrics=metrics,
        )
        say(address)
        if self.revision is None:
            draw_next(self.repository, Path(f"samples-{self.repository.rpartition('/')[2]}"))


def parse_metrics(text: str) -> dict[str, float]:
    """Results by name from text: `FID=3.2,KID=0.001`.

    Raises:
        ValueError: if a part is no name and finite number, or a name comes twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number):
            raise ValueError(
                f"--metrics: cannot read {part!r}: write NAME=VALUE with commas between, as FID=3.2,KID=0.001"
            )
        if name in found:
            raise ValueError(f"--metrics: {name} comes twice")
        found[name] = number
    return found
