"""What scripts of benchmarks/ must have written when they ran in small: `CHECKS` by name, and rows of tables."""

import json
import math
import re
import statistics
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import explorer
import infer
import snapshots
import speed
from unitgain.analysis.counts import recipe_costs
from unitgain.arch.configs import edm2_configs, edm2plus_configs
from unitgain.checkpoint.snapshot import list_snapshots
from unitgain.sample import SAMPLERS
from unitgain.serial import to_dict


def rows(text):
    """Cells of all tables of a page, but for their heads."""
    lines = text.splitlines()
    heads = {place + step for place, line in enumerate(lines) if re.fullmatch(r"\|[-:| ]+\|", line) for step in (-1, 0)}
    return [
        [cell.strip(" `").removeprefix("**").removesuffix("**") for cell in line.strip("|").split("|")]
        for place, line in enumerate(lines)
        if line.startswith("|") and place not in heads
    ]


def numbers(value):
    """All in JSON values."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield value


def saved(folder, name):
    """The figures, and the page."""
    return json.loads((folder / f"{name}.json").read_text()), (folder / f"{name}.md").read_text()


def check_inference(folder, printed):
    found, page = saved(folder, "infer")
    kinds = {row["name"]: row for row in found["batch 1"]["rows"]}
    assert next(iter(kinds)) == "EDM2-S plain"
    assert {"EDM2+-S plain", "EDM2-S float32", "EDM2+-S float32"} <= kinds.keys()
    assert f"| {kinds['EDM2-S float32']['ratio']:.2f} |" in page
    assert "times its 3 evaluations alone" in page
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infer, "forward", None)  # what is there is not measured again
        infer.main(["--small", "--folder", str(folder)])
        assert saved(folder, "infer")[0] == found
        with pytest.raises(TypeError):
            infer.main(["--small", "--folder", str(folder), "--fresh"])
    heights = speed.bars(found)
    assert list(heights) == ["EDM2-S\nbatch 1", "EDM2+-S\nbatch 1"]
    assert heights["EDM2-S\nbatch 1"]["plain"] == 1.0


def check_dimensions(folder, printed):
    found, page = saved(folder, "dimensions")
    assert list(found["found"]) == ["EDM2 training", "EDM2 drawing"]
    for one in found["found"].values():
        assert one["quartiles"][0] <= one["ratio"] <= one["quartiles"][1] and min(one["now"], one["before"]) > 0
    assert "Before is commit abc" in page and f"{found['found']['EDM2 drawing']['ratio']:.2f} |" in page


def check_layouts(folder, printed):
    found, page = saved(folder, "layouts")
    jobs = [(label, job) for label in ("EDM2", "EDM2+") for job in ("training", "drawing")]
    assert [(row["network"], row["job"]) for row in found["rows"]] == jobs
    assert f"| {found['rows'][-1]['ratio']:.2f} |" in page


def check_training_compile(folder, printed):
    found, page = saved(folder, "training_compile")
    (row,) = found["rows"]
    assert row["cost"] > 0 and min(row["ms"], row["compiled"]) > 0
    assert f"| {row['ms'] / row['compiled']:.2f} |" in page


def check_snapshots(folder, printed):
    found, page = saved(folder, "snapshots")
    assert len(found["first"]) == len(found["last"]) == snapshots.COUNTED
    assert f"| {statistics.median(row['clock'] for row in found['first']):.1f} |" in page
    assert {path.suffix for path in folder.iterdir()} == {".json", ".md"}


def check_training_step(folder, printed):
    found, page = saved(folder, "training_step")
    for label in ("EDM2", "EDM2+", "pixels64-mini"):
        names = [f"{label} {mode}" for mode in ("plain", "autocast", "float32", "float32 of the peer")]
        assert [row["name"] for row in found[label]["rows"]] == names
        assert f"| {label} float32 |" in page


def check_quality(folder, printed):
    found, page = saved(folder, "quality")
    modes = {row["mode"]: row for row in found["rows"]}
    assert list(modes) == ["as trained", "float32", "bfloat16", "float16"]
    assert modes["as trained"]["change"] == 0.0
    assert abs(modes["float32"]["change"]) < 1e-3
    assert 0 < modes["float16"]["mean_difference"] < modes["bfloat16"]["mean_difference"]
    assert "| prepared, bfloat16 |" in page


def check_batch_norm(folder, printed):
    found, page = saved(folder, "batch_norm")
    (one,) = found["settings"]
    place = found["lengths"].index(0.2)
    mean = sum(run["statistics"][place] for run in one["runs"]) / 2
    (row,) = [line for line in page.splitlines() if line.startswith("| 0.2 |")]
    assert f"| {mean:.3f} (" in row and row.count("|") == 5


def check_gradients(folder, printed):
    found, page = saved(folder, "gradients")
    parts = [part for name, part in found.items() if name != "machine"]
    assert len(parts) == 2 * 3
    each = [row for part in parts for row in part["rows"]]
    assert any("groups" in row["layer"] for row in each)
    assert all(value > 0 for row in each for value in row["seconds"].values())
    assert all(f"| {row['layer']} | {row['count']} |" in page for row in each)


def check_preparing(folder, printed):
    found, page = saved(folder, "preparing")
    assert [found[count]["unitgain data prepare"]["ratio"] for count in ("2", "3")] == [1, 1]
    peer = found["3"]["Pillow alone, one process"]
    assert peer["least"] <= peer["ratio"] <= peer["most"]
    assert f"| 3 | Pillow alone, one process | {peer['seconds']:.1f} |" in page


def check_explorer(folder, printed):
    found, page = saved(folder, "explorer")
    assert all(value > 0 for value in found["large"]["seconds"].values())
    seconds = found["seconds"]
    assert all(seconds[name] > 0 for name in (*explorer.PARTS, "seen", "all"))
    assert sum(seconds[name] for name in explorer.PARTS) == pytest.approx(seconds["all"])
    assert all(text in page for text in explorer.PARTS.values())


def check_torture(folder, printed):
    found = saved(folder, "torture")[0]["figures"]["DDP"]
    outcomes = found["outcomes"]
    assert outcomes["killed"] >= 2
    assert sum(outcomes.values()) - outcomes.get("fell back to an older checkpoint", 0) == found["rounds"] == 4
    assert not found["failures"]


def check_speed(folder, printed):
    assert "<svg" in (folder / "speed.svg").read_text()


def check_counts(folder, printed):
    written = json.loads((folder / "counts.json").read_text())
    assert written == {"digits": to_dict(recipe_costs()["digits"])}


def check_guidance(folder, printed):
    assert {path.name for path in folder.iterdir()} == {"main", "weak", "unconditional"}
    assert all(list_snapshots(run / "snapshots")[-1].header.nimg == 80 for run in folder.iterdir())


def check_loss_curve(folder, printed):
    (curve,) = json.loads((folder / "loss_curve.json").read_text())
    assert len(curve["loss"]) == 2 and all(map(math.isfinite, curve["loss"]))
    assert "tried" in (folder / "loss_curve.md").read_text() and "the committed curve" in printed


def check_posthoc_training(folder, printed):
    assert all((folder / name).read_text().startswith("<?xml") for name in ("profiles.svg", "errors.svg"))
    found = saved(folder, "posthoc_training")[0]
    assert all(0 < error < 1 for kind in ("classifier", "denoiser") for error in found[kind]["float32"].values())


def check_footprint(folder, printed):
    assert json.loads(printed)["evaluating"] > 1e5


def check_archive(folder, printed):
    with zipfile.ZipFile(folder / "x.zip") as archive:
        assert [Image.open(archive.open(name)).size for name in archive.namelist()] == [(8, 8)] * 2


CHECKS = {
    "batch_norm": check_batch_norm,
    "counts": check_counts,
    "dimensions": check_dimensions,
    "explorer": check_explorer,
    "footprint": check_footprint,
    "gradients": check_gradients,
    "guidance": check_guidance,
    "infer": check_inference,
    "layouts": check_layouts,
    "loss_curve": check_loss_curve,
    "pillow_archive": check_archive,
    "posthoc_training": check_posthoc_training,
    "preparing": check_preparing,
    "quality": check_quality,
    "snapshots": check_snapshots,
    "speed": check_speed,
    "torture": check_torture,
    "training_compile": check_training_compile,
    "training_step": check_training_step,
}
WITHOUT_TABLE = ("counts", "guidance", "loss_curve", "speed")
CONFIGS = [f"EDM2 {name.upper()}" for name in edm2_configs()] + [f"EDM2+ {name}" for name in edm2plus_configs()]
LENGTHS = ["0.015", "0.03", "0.075", "0.13", "0.2", "0.25"]
ROWS = {
    "amx": [f"{name}, batch {batch}" for name in ("EDM2-S", "EDM2+-S") for batch in (1, 4)],
    "busy": ["0"],
    "configs": ["EDM2 B", "EDM2+ G*"],
    "frechet": ["full rank", "one deficient", "both deficient"],
    "initialization": CONFIGS,
    "kept_memory": ["EDM2 float32"] * 3,
    "loading": ["NumPy memory map", "loader, threads", "loader, no threads"],
    "magnitudes": ["EDM2 C", "EDM2 G"] * 2,
    "memory": ["digits"],
    "official": ["protocol 4", "protocol 2"],
    "planned_memory": ["8x8 grey"],
    "posthoc_training": LENGTHS * 2,
    "recipe_times": ["digits"],
    "reference": ["reference", "plain", "fast"],
    "restarts": ["prepare"],  # encoding begins so slowly that whole runs alone have it
    "robustness": ["stats.jsonl of a run", "all 4"],
    "samplers": list(SAMPLERS),
    "start": ["python", "import unitgain"],
    "training_peer": ["float32"],
    "training_precision": ["digits"],
}
