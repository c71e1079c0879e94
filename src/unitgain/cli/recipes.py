"""`unitgain recipes`."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.table import Table

from unitgain.analysis.counts import recipe_costs, state_bytes, training_zettaflops
from unitgain.cli.arguments import Device, Unset, pick_device
from unitgain.console import Console, next_step, say, show_json
from unitgain.recipe import Precision, Recipe
from unitgain.recipes import list_recipes, recipe
from unitgain.size import show_size
from unitgain.text import span

MILLION = 1_000_000


@dataclass(frozen=True)
class Recipes:
    """List recipes, the smallest first: for what data, how much memory, how long on this machine.

    Speed is estimated from a step of a small network, which is measured here in a few seconds: take it for an order of
    magnitude. `unitgain inspect NAME` shows more of one, `unitgain train NAME` trains it, and without a NAME `unitgain
    train --data DATA` plans a recipe for the data.
    """

    pattern: Annotated[Unset[str], tyro.conf.Positional, tyro.conf.arg(metavar="[PATTERN]")] = None
    """Only those with this in their name, or that fit a pattern such as 'edm2*img64*'."""

    json: bool = False
    """Print JSON instead of a table."""

    unmeasured: bool = False
    """Measure nothing: the table is there at once, and without times."""

    device: Device = "auto"
    """Where it would be trained."""

    def run(self) -> None:
        """Print them."""
        recipes = [recipe(name) for name in list_recipes(self.pattern)]
        measured = None if self.unmeasured else Measured.on(self.device, {one.precision for one in recipes})
        rows = [recipe_row(one, measured and measured.rate(one)) for one in recipes]
        if self.json:
            show_json({"machine": measured and measured.record(), "recipes": rows})
            return
        Console(least=124).print(_table(rows, measured is not None))
        for line in _notes(measured):
            say(line)
        next_step("see what one is made of", "inspect", rows[0]["name"])


@dataclass(frozen=True)
class Measured:
    """How fast this machine trains.

    Attributes:
        device: kind of device.
        rates: operations per second by precision of the network.
        precisions: in which networks of a recipe's precision are trained here.
    """

    device: str
    rates: dict[Precision, float]
    precisions: dict[Precision, Precision]

    @classmethod
    def on(cls, device: Device, precisions: set[Precision]) -> "Measured":
        """Measure on a kind of device, in what recipes of these precisions are trained in there."""
        from unitgain.train.fitting import precision_on
        from unitgain.train.warmup import training_rate

        where = pick_device(device)
        own: dict[Precision, Precision] = {one: precision_on(where, one) for one in sorted(precisions)}
        rates: dict[Precision, float] = {name: training_rate(where, name) for name in sorted(set(own.values()))}
        return cls(where.type, rates, own)

    def rate(self, of: Recipe) -> float:
        """Operations per second that a recipe is trained with."""
        return self.rates[self.precisions[of.precision]]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"device": self.device, "operations_per_second": self.rates}


def recipe_row(of: Recipe, rate: float | None = None) -> dict[str, Any]:
    """What a recipe is for and what it costs, as JSON values: bytes, seconds, operations; times need a rate.

    Args:
        of: the recipe, one of those with a name.
        rate: operations per second of training on some machine; None leaves times out.
    """
    costs, network = recipe_costs()[of.name], of.network
    row = {
        "name": of.name,
        "summary": of.summary,
        "resolution": network.resolution,
        "channels": network.channels,
        "latents": of.latents,
        "classes": network.label_dim,
        "parameters": costs.parameters,
        "state_bytes": state_bytes(costs.parameters, len(of.ema) + bool(of.ema_half_life)),
        "image_bytes": costs.activation_bytes,
        "batch": of.batch,
        "duration": of.duration,
        "gflops": costs.evaluation.gflops,
        "training_zettaflops": training_zettaflops(costs.evaluation.gflops, of.duration),
    }
    if rate is not None:
        speed = costs.images_per_second(rate)
        times = {"seconds_per_million": MILLION / speed, "seconds": of.duration / speed}
        row |= {"images_per_second": speed, **times}
    return row


def _table(rows: list[dict[str, Any]], timed: bool) -> Table:
    table = Table(box=None)
    for name in ("recipe", "data"):
        table.add_column(name, no_wrap=True)
    times = ("images/s\nhere", "a million\nimages", "all of it") if timed else ()
    for name in ("params\nM", "memory\nGB", "+ MB per\nimage", *times, "images\nM", "GFLOPs", "training\nZflops"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        size = f"{show_size(row['resolution'])}x{row['channels']}"
        spans: list[str] = []
        if timed:
            spans = [f"{row['images_per_second']:.3g}", span(row["seconds_per_million"]), span(row["seconds"])]
        table.add_row(
            row["name"],
            f"{size} latents" if row["latents"] else size,
            f"{row['parameters'] / 1e6:,.1f}",
            f"{row['state_bytes'] / 1e9:,.2f}",
            f"{row['image_bytes'] / 1e6:,.1f}",
            *spans,
            f"{row['duration'] / 1e6:,.4g}",
            f"{row['gflops']:.3g}",
            f"{row['training_zettaflops']:.3g}",
        )
    return table


def _notes(measured: Measured | None) -> list[str]:
    lines = []
    if measured is not None:
        rates = ", ".join(f"{rate / 1e9:,.3g} G/s in {name}" for name, rate in measured.rates.items())
        where = f"a small network that was trained on this {measured.device} for a moment"
        lines.append(f"Times are estimates, from {where}: {rates}.")
    return [
        *lines,
        "memory: weights, gradients, Adam's moments and averages; more for each image of a pass (train --microbatch).",
        "GFLOPs: multiply-adds of one evaluation, in 10^9; Zflops: of the whole training, in 10^21 (EDM2, Table 6).",
    ]
