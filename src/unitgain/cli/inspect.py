"""`unitgain inspect`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from unitgain.checkpoint.snapshot import Snapshot
from unitgain.checkpoint.state import list_checkpoints
from unitgain.denoiser import parameter_count
from unitgain.recipes import RECIPES, Recipe, create, recipe
from unitgain.serial import suggest, to_dict
from unitgain.train.loop import load_config


@dataclass(frozen=True)
class Inspect:
    """Show what is in a snapshot, a run or a recipe. A snapshot is checked against its checksum."""

    what: Annotated[str, tyro.conf.Positional]
    """A .safetensors snapshot, the folder of a run, or the name of a recipe."""

    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Print it."""
        facts = describe(self.what)
        if self.json:
            print(json.dumps(facts, indent=1))
            return
        table = Table(box=None, show_header=False)
        for name, value in _flat(facts):
            table.add_row(name, value)
        Console().print(table)


def describe(what: str) -> dict[str, Any]:
    """What there is to say of a snapshot, a run or a recipe, as JSON values.

    Raises:
        FileNotFoundError: if it looks like a path, but nothing is there.
        ValueError: if it is neither a path nor the name of a recipe.
        SnapshotError: if it is a damaged snapshot.
    """
    path = Path(what)
    if path.is_dir():
        return describe_run(path)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return describe_snapshot(path)
    if what not in RECIPES:
        raise ValueError(f"{what!r} is no file, no folder and no recipe; {suggest(what, RECIPES)}")
    return {"kind": "recipe", **_recipe(recipe(what))}


def describe_snapshot(path: Path) -> dict[str, Any]:
    """Header, size and dtypes of a snapshot whose checksum is right."""
    with Snapshot(path) as snapshot:
        dtypes: dict[str, int] = {}
        for _, tensor in snapshot.verified():
            dtype = str(tensor.dtype).removeprefix("torch.")
            dtypes[dtype] = dtypes.get(dtype, 0) + tensor.numel()
        facts = to_dict(snapshot.header)
    return {"kind": "snapshot", "bytes": path.stat().st_size, "values": dtypes, "checksum": "ok", **facts}


def describe_run(run: Path) -> dict[str, Any]:
    """Settings, progress, snapshots and checkpoints of a run."""
    config = load_config(run)
    stats = run / "stats.jsonl"
    rows = [json.loads(line) for line in stats.read_text().splitlines()] if stats.exists() else []
    ticks = [row for row in rows if "loss" in row]
    nimg = ticks[-1]["nimg"] if ticks else 0
    settings = {name: value for name, value in to_dict(config).items() if name != "recipe"}
    return {
        "kind": "run",
        "nimg": nimg,
        "finished": nimg >= config.recipe.duration,
        "loss": ticks[-1]["loss"] if ticks else None,
        "snapshots": [path.name for path in sorted((run / "snapshots").glob("[!.]*.safetensors"))],
        "checkpoints": [path.name for path in list_checkpoints(run / "checkpoints")],
        **settings,
        "recipe": _recipe(config.recipe),
    }


def _recipe(what: Recipe) -> dict[str, Any]:
    with torch.device("meta"):
        return {"parameters": parameter_count(create(what)), **to_dict(what)}


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and len(value) > 6:
            rows.append((prefix + name, f"{len(value)}, from {value[0]} to {value[-1]}"))
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((prefix + name, f"{value:,}" if type(value) is int else text))
    return rows
