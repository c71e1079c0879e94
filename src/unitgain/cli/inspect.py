"""`unitgain inspect`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table

from unitgain.arch.conditions import Condition
from unitgain.cli.arguments import PICTURE, Unset, draw_next, refuse_idle
from unitgain.cli.memory import MemoryOptions, memory_table
from unitgain.console import Console, next_step, say, show_json
from unitgain.data.manifest import read_manifest
from unitgain.recipe import Recipe, Score
from unitgain.recipes import DIGITS, RECIPES, recipe
from unitgain.report.facts import describe, network_in, network_of, paper_rows
from unitgain.report.scores import measured, paper_points, recipe_price, score_figure
from unitgain.serial import from_dict, suggest, to_dict
from unitgain.text import one_line


@dataclass(frozen=True)
class Inspect:
    """Show what is in a snapshot, a run, prepared data or a recipe, and what a recipe costs.

    A snapshot is checked against its checksum. Costs count one multiply-add as one operation, as the papers do.
    """

    what: Annotated[Unset[str], tyro.conf.Positional] = None
    """A .safetensors snapshot, a folder of a run, of prepared data or of `save_pretrained`, or the name of a recipe.
    May be left out with --configs."""

    json: bool = False
    """Print JSON instead of a table."""

    configs: Unset[Literal["edm2", "edm2plus"]] = None
    """Print every config and size of a paper instead, one row each."""

    plot: Unset[Path] = None
    """Draw to this file, .svg, .png or .pdf, instead: the blocks of the network to scale; with --configs what the paper
    reports as scores against GFLOPs, parameters, cost of an image and of training (EDM2, Figs. 1 and 8-10; EDM2+,
    Fig. 1)."""

    measured: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """File of `unitgain metrics NETWORK --out FILE`, to be drawn beside the scores of --configs; may be given again."""

    guides: Annotated[tuple[str, ...], tyro.conf.arg(name="guide"), tyro.conf.UseAppendAction] = ()
    """Recipe of a network that guides: print what both cost together (EDM2, Table 4); may be given again."""

    memory: MemoryOptions = field(default_factory=MemoryOptions)

    def run(self) -> None:
        """Print or draw it."""
        if (self.what is None) == (self.configs is None):
            raise ValueError("name one thing: unitgain inspect NAME, or unitgain inspect --configs edm2plus")
        if self.plot is not None:
            refuse_idle(self, ["json"], PICTURE)
        if self.memory.given and (self.configs is not None or self.plot is not None):
            raise ValueError(f"{', '.join(self.memory.given)}: the memory of training is that of one recipe: name it")
        if self.measured and (self.configs is None or self.plot is None):
            raise ValueError("--measured is drawn beside the scores of a paper: give --configs and --plot too")
        if self.guides and (self.what not in RECIPES or self.plot is not None or self.memory.given):
            raise ValueError("--guide is for the costs of a recipe: unitgain inspect RECIPE --guide RECIPE")
        if self.configs is not None:
            self._run_paper(self.configs)
        elif self.what is not None:
            self._run_one(self.what)

    def _run_paper(self, paper: str) -> None:
        if self.plot is not None:
            from unitgain.figures import save

            own = [point for path in self.measured for point in measured(path)]
            save(score_figure([*paper_points(paper), *own]), self.plot)
            say(f"wrote {self.plot}")
            return
        rows = paper_rows(paper)
        if self.json:
            show_json(rows)
        else:
            Console(least=112).print(_paper_table(paper, rows))
            next_step("see what one is made of", "inspect", rows[0]["name"])

    def _run_one(self, what: str) -> None:
        if self.plot is not None:
            from unitgain.analysis.plots import network_figure
            from unitgain.figures import save

            save(network_figure(network_of(what), what), self.plot)
            say(f"wrote {self.plot}")
            return
        if self.memory.given:
            self._run_memory(what)
            return
        if self.guides:
            self._run_guides(recipe(what))
            return
        facts = describe(what)
        if self.json:
            show_json(facts)
            return
        if facts["kind"] == "recipe":
            Console().print(_cost_table(facts))
        elif facts["kind"] == "data":
            facts["conditions"] = list(map(str, read_manifest(Path(what)).conditions))
        table = Table(box=None, show_header=False)
        for name, value in _flat({name: value for name, value in facts.items() if name not in COSTS}):
            table.add_row(name, value)
        Console().print(table)
        self._go_on(what, facts)

    def _go_on(self, what: str, facts: dict[str, Any]) -> None:
        """What comes next: images of a network, or the training of a recipe."""
        path = Path(what)
        if facts["kind"] == "recipe" and what == DIGITS.name:
            next_step("train it", "train", what)
        elif facts["kind"] == "recipe":
            next_step("see how much memory its training takes", "inspect", what, "--microbatch", 8)
        elif facts["kind"] == "data":
            next_step("see whether they are whole and suit the recipes", "data", "check", what)
        elif facts["kind"] == "run" and not facts["snapshots"]:
            next_step("see how it is doing", "watch", what, "--once")
        elif network_in(facts).dims == 2:
            out = path / f"drawn-{facts['nimg']}" if path.is_dir() else path.with_suffix("")
            draw_next(what, out, told=(network_in(facts), facts.get("data") or ""))

    def _run_guides(self, what: Recipe) -> None:
        prices = {guide: recipe_price(what, guide) for guide in self.guides}
        if self.json:
            show_json([{"guide": guide, **to_dict(price)} for guide, price in prices.items()])
            return
        table = Table("guide", box=None, title=f"{what.name} guided: both together")
        for name in ("Gparams", "GFLOPs", "sampling\nTflops"):
            table.add_column(name, justify="right")
        for guide, price in prices.items():
            numbers = (f"{price.parameters / 1e9:.2f}", f"{price.gflops:.1f}", f"{price.sampling_teraflops:.1f}")
            table.add_row(guide, *numbers)
        Console().print(table)

    def _run_memory(self, what: str) -> None:
        if what not in RECIPES:
            hint = "name its recipe" if Path(what).exists() else suggest(what, RECIPES)
            raise ValueError(f"{', '.join(self.memory.given)}: for recipes, and {what!r} is none; {hint}")
        found = self.memory.estimate(recipe(what))
        if self.json:
            show_json({**to_dict(found), "total": found.total})
        else:
            Console().print(memory_table(what, self.memory, found))
            if what == DIGITS.name:
                next_step("train it", "train", what)


COSTS = (
    "parameters",
    "gflops",
    "sampling_teraflops",
    "training_zettaflops",
    "activation_bytes",
    "by_op",
    "by_part",
    "by_resolution",
    "scores",
)


def _paper_table(paper: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, title=f"{paper}: one evaluation of one sample; FID as published, without guidance")
    for name in ("recipe", "branch"):
        table.add_column(name, no_wrap=True)
    for name in ("base", "Mparams", "GFLOPs", "sampling\nTflops", "training\nZflops", "FID"):
        table.add_column(name, justify="right")
    for row in rows:
        fid = "" if row["fid"] is None else f"{row['fid']:.2f}"
        table.add_row(
            row["name"],
            row["branch"],
            str(row["model_channels"]),
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['gflops']:.2f}",
            f"{row['sampling_teraflops']:.2f}",
            f"{row['training_zettaflops']:.3f}",
            fid,
        )
    return table


def _cost_table(facts: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False)
    table.add_row("parameters", f"{facts['parameters']:,}")
    table.add_row("one evaluation", f"{facts['gflops']:.2f} GFLOPs")
    table.add_row("one image", f"{facts['sampling_teraflops']:.2f} Tflops, 63 evaluations")
    table.add_row("training", f"{facts['training_zettaflops']:.4g} Zflops")
    table.add_row("memory", f"{facts['activation_bytes'] / 2**20:.1f} MiB kept for the backward pass of one sample")
    for key, title in (("by_part", "part"), ("by_resolution", "resolution"), ("by_op", "operation")):
        for name, gflops in list(facts[key].items())[:8]:
            table.add_row(f"{title} {name}", f"{gflops:.4g} GFLOPs ({100 * gflops / facts['gflops']:.1f} %)")
    for score in facts["scores"]:
        table.add_row(f"published {score['metric']}", _score_text(from_dict(Score, score)))
    return table


def _score_text(score: Score) -> str:
    text = f"{score.value:g}"
    if score.sigma_rel is not None:
        text += f" at EMA length {score.sigma_rel:g}"
    if score.guide:
        weight = "unstated weight" if score.guidance is None else f"weight {score.guidance:g}"
        text += f", guided by {score.guide}"
        text += f" at {score.guide_nimg / 2**20:.0f} Mi images" if score.guide_nimg else ""
        text += f" of EMA length {score.guide_sigma_rel:g}" if score.guide_sigma_rel is not None else ""
        text += f", {weight}"
    return text


def _condition_text(condition: dict[str, Any]) -> str:
    """What a network is told, by its declaration."""
    declared = Condition.from_json(condition, "conditions")
    return f"{declared.summary}, left out of {100 * declared.dropout:g} % of the images in training"


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in facts.items():
        name = one_line(key)
        if f"{prefix}{key}".endswith("network.conditions"):
            rows += [(prefix + name, one_line(_condition_text(one))) for one in value]
        elif isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and len(value) > 6:
            rows.append((prefix + name, one_line(f"{len(value)}, from {value[0]} to {value[-1]}")))
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((prefix + name, f"{value:,}" if type(value) is int else one_line(text)))
    return rows
