"""What is in snapshots, runs, prepared data and recipes, as JSON values."""

from pathlib import Path
from typing import Any

from unitgain.analysis.counts import recipe_costs
from unitgain.arch import NetworkSpec
from unitgain.checkpoint.state import list_checkpoints
from unitgain.data.manifest import MANIFEST, WORDS, read_manifest
from unitgain.recipe import Recipe, trained_parameters
from unitgain.recipes import RECIPES, recipe
from unitgain.report.scores import PAPERS, recipe_price
from unitgain.serial import from_dict, suggest, to_dict
from unitgain.train.rows import read_ticks


def describe(what: str) -> dict[str, Any]:
    """What there is to say of a snapshot, a folder of `save_pretrained`, a run, data or a recipe, as JSON values.

    Raises:
        FileNotFoundError: if it looks like a path, but nothing is there.
        ValueError: if it is neither a path nor the name of a recipe.
        SnapshotError: if it is a damaged snapshot.
    """
    from unitgain.hub import MODEL

    path = Path(what)
    if (path / MODEL).is_file():
        return describe_snapshot(path / MODEL)
    if (path / MANIFEST).is_file():
        return describe_data(path)
    if path.is_dir():
        return describe_run(path)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return describe_snapshot(path)
    if what not in RECIPES:
        raise ValueError(f"{what!r} is no file, no folder and no recipe; {suggest(what, RECIPES)}")
    return {"kind": "recipe", **recipe_facts(recipe(what))}


def network_of(what: str) -> NetworkSpec:
    """The network of a snapshot, a run or a recipe."""
    return network_in(describe(what))


def network_in(facts: dict[str, Any]) -> NetworkSpec:
    """The network of what `describe` says."""
    return from_dict(NetworkSpec, facts["recipe"]["network"] if facts["kind"] == "run" else facts["network"])


def describe_snapshot(path: Path) -> dict[str, Any]:
    """Header, size and dtypes of a snapshot whose checksum is right."""
    from unitgain.checkpoint.snapshot import Snapshot

    with Snapshot(path) as snapshot:
        dtypes: dict[str, int] = {}
        for _, tensor in snapshot.verified():
            dtype = str(tensor.dtype).removeprefix("torch.")
            dtypes[dtype] = dtypes.get(dtype, 0) + tensor.numel()
        facts = to_dict(snapshot.header)
    return {"kind": "snapshot", "bytes": path.stat().st_size, "values": dtypes, "checksum": "ok", **facts}


def describe_data(folder: Path) -> dict[str, Any]:
    """What the manifest of prepared data says; their files are not looked at."""
    manifest = read_manifest(folder)
    channels = manifest.channels // 2 if manifest.kind == "latent" else manifest.channels
    return {
        "kind": "data",
        "holds": WORDS[manifest.kind],
        "rows": manifest.rows,
        "shape": [channels, *manifest.size],
        "classes": None if manifest.classes is None else list(manifest.classes),
        "conditions": {column.name: list(column.shape) for column in manifest.conditions},
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "mean": list(manifest.mean),
        "std": list(manifest.std),
        "source": manifest.settings.get("source"),
        "fingerprint": manifest.fingerprint,
    }


def describe_run(run: Path) -> dict[str, Any]:
    """Settings, progress, snapshots and checkpoints of a run."""
    from unitgain.train.run import load_config

    config = load_config(run)
    ticks = read_ticks(run)
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
        "recipe": {"parameters": trained_parameters(config.recipe), **to_dict(config.recipe)},
    }


def recipe_facts(what: Recipe) -> dict[str, Any]:
    """A recipe and what it costs, as JSON values: operations in 10^9, of one evaluation, where not said otherwise.

    Parameters are those that training learns, u(sigma) included, as the papers count them.
    """
    costs = recipe_costs()[what.name]
    cost = costs.evaluation
    return {
        "name": what.name,
        "command": what.command,
        **to_dict(recipe_price(what)),
        "activation_bytes": costs.activation_bytes,
        "by_op": {name: count / 1e9 for name, count in cost.by_op.items()},
        "by_part": {name: count / 1e9 for name, count in cost.by_part.items()},
        "by_resolution": {name: count / 1e9 for name, count in cost.by_resolution.items()},
        **to_dict(what),
    }


def paper_rows(paper: str) -> list[dict[str, Any]]:
    """One row per config and size of a paper, as JSON values."""
    names: dict[str, None] = {}
    for prefix in PAPERS[paper]:
        names |= dict.fromkeys(name for name in RECIPES if name.startswith(prefix) and not name.endswith("-uncond"))
    rows = []
    for name, config in ((name, RECIPES[name]) for name in names):
        network = config.network
        rows.append(
            {
                "name": name,
                "branch": network.branch if network.design in ("plain", "magnitude-preserving") else network.design,
                "model_channels": network.model_channels,
                **to_dict(recipe_price(config)),
                "fid": next((score.value for score in config.scores if score.metric == "FID"), None),
            }
        )
    return rows
