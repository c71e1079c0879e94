"""docs/reference/formats.md lists every field of what the writers write, and none that nobody writes."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, folder_of, picture
from safetensors import safe_open
from samples import folder_of_tones
from vaes import save_vae

from unitgain import recipes
from unitgain.cli.main import main
from unitgain.serial import to_dict
from unitgain.train import TrainConfig

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
HEAD = re.compile(r"^\| (?:field|column)[^|\n]* \|[^\n]*\n\|[-|]+\|\n(?P<rows>(?:\|[^\n]*\n)*)", re.MULTILINE)
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$")
# What a tiny run does not bring about; each is in the source of what writes it, under this name.
RARE = {
    "shard", "extra", "half_life", "start", "nonfinite", "stopped", "guide", "init", "scores", "vae", "pixels",
    "numbers", "conditions", "without",
    "compile", "no_winograd", "kernels", "graph", "S_churn", "S_min", "S_max", "S_noise",
    "record.settings.*", "record.source.formats.*",
}  # fmt: skip


def anchor(title):
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def tables_of(page):
    """The tables of each section, by its anchor: types by field."""
    found = {}
    for part in re.split(r"^#{2,3} ", page, flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        found[anchor(title)] = [
            {row[1]: row[2] for row in map(ROW.match, match["rows"].splitlines())} for match in HEAD.finditer(text)
        ]
    return found


TABLES = tables_of(PAGE)


def fields(section, number=0):
    """The fields of a table, those of the sections that it refers to in their places."""
    found = set()
    for name, kind in TABLES[section][number].items():
        link = re.search(r"\]\(#([\w-]+)\)", kind)
        if link is None or "or null" in kind:
            found.add(name)
        found |= {f"{name}.{inner}" for inner in fields(link[1])} if link else set()
    return found


def paths(value, listed):
    """The path of each value of an object, in the notation of the page, which says where a name may be any."""

    def walk(value, here):
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                place = f"{here}.{name}" if here else name
                any_name = f"{here}.*" if here else "*"
                free = not any(one == place or one.startswith((f"{place}.", f"{place}[]")) for one in listed)
                yield from walk(inner, any_name if free and any(one.startswith(any_name) for one in listed) else place)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for inner in value:
                yield from walk(inner, f"{here}[]")
        elif not (value == {} and any(one.startswith(f"{here}.") for one in listed)):
            yield here

    return set(walk(value, ""))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with one of each kind of file, all made by commands."""
    folder = tmp_path_factory.mktemp("formats")
    tiny = (
        "--width 8 --batch 32 --microbatch 16 --duration 64 --snapshot-every 32 --quiet --no-tensorboard --device cpu"
    )
    seen = "--metrics fd_pixels --metrics-reference real.npz --metrics-images 16 --evaluate-steps 2 --samples 10"
    draw = "--steps 2 --device cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        folder_of(folder / "pictures", each=2)
        folder_of_tones(folder / "tones", each=2)
        (folder / "pairs.csv").write_text("image,vector\npictures/cat/0.png,1\n")
        (folder / "pictures" / "cat" / "broken.png").write_bytes(encoded(picture(0))[:50])
        for words in (
            "data prepare pictures data --resolution 8 --on-error skip --shard 3",
            "data prepare tones arrays",
            "data prepare pairs.csv pairs --resolution 8",
            f"data encode data latents --vae {save_vae('vae')}",
            "metrics reference digits --out real.npz --detectors pixels --features",
            f"train digits --out run --magnitudes-every 32 {seen} {tiny}",
            f"train digits --out tuned --init run/snapshots/0000000064-0.100.safetensors {tiny}",
            f"sample run/snapshots/0000000064-0.100.safetensors --seeds 0-7 --out drawn {draw}",
            f"sample run/snapshots/0000000064-0.100.safetensors --guide run/snapshots/0000000064-0.050.safetensors"
            f" --guidance 1.5 --seeds 0 --sampler stochastic_heun --interval 0.1 5 --out guided {draw}",
            "metrics drawn --reference real.npz --metrics fd_pixels,coverage@pixels --out result.json",
            f"sweep run --metric fd_pixels --reference real.npz --images 4 --lengths 0.1,0.12 {draw}",
            "tune run --metric fd_pixels --reference real.npz --images 4 --lengths 0.1:0.12:0.02 --evaluations 1 "
            f"{draw}",
        ):
            main(words.split())
    return folder


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def facts(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["unitgain"])


def about(path):
    with np.load(path) as file:
        return json.loads(str(file["about"]))


def official(place):
    """What is written of a recipe with published scores, and beside a converted snapshot."""
    recipe = recipes.recipe("edm2-img64-s")
    return to_dict(TrainConfig(recipe=recipe))


FORMATS = {
    # section, number of its table, and objects of that format
    "snapshot": ("snapshot", 0, lambda place: map(facts, (place / "run" / "snapshots").glob("*.safetensors"))),
    "config.json": (
        "run-configjson",
        0,
        lambda place: [read_json(place / run / "config.json") for run in ("run", "tuned")] + [official(place)],
    ),
    "stats.jsonl": (
        "run-statsjsonl",
        0,
        lambda place: [row for run in ("run", "tuned") for row in read_lines(place / run / "stats.jsonl")],
    ),
    "checkpoint": ("checkpoint", 0, lambda place: map(read_json, place.glob("*/checkpoints/*/manifest.json"))),
    "data": (
        "prepared-data",
        0,
        lambda place: [read_json(place / n / "unitgain.json") for n in ("data", "latents", "arrays", "pairs")],
    ),
    "reference": ("reference-statistics", 0, lambda place: [about(place / "real.npz")]),
    "result": ("results-of-metrics", 0, lambda place: read_json(place / "result.json")),
    "images": ("drawn-images", 0, lambda place: [read_json(place / n / "manifest.json") for n in ("drawn", "guided")]),
    "cells": ("sweeps", 0, lambda place: read_lines(place / "run" / "sweep" / "cells-0.jsonl")),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_field_that_is_written_is_on_the_page_and_the_other_way(place, name):
    section, number, objects = FORMATS[name]
    listed = fields(section, number)
    written = set().union(*(paths(one, listed) for one in objects(place)))
    assert written, "nothing was written"
    assert written - listed == set(), "written, and not on the page"
    unseen = listed - written
    assert {one for one in unseen if not RARE.intersection([one, *re.split(r"[.\[\]]+", one)])} == set()


def test_the_columns_of_tables(place):
    (first, *_) = place.glob("run/sweep/sweep*.csv")
    with open(first, newline="") as file:
        assert set(next(csv.reader(file))) == fields("sweeps", 1)


def test_the_formats_that_are_named_are_those_of_the_code():
    from unitgain.checkpoint import facts, state, uncertainty
    from unitgain.data import manifest
    from unitgain.draw import folder
    from unitgain.metrics import reference

    named = re.findall(r"^\| `format` \| string \| `([^`]+)`", PAGE, re.MULTILINE)
    assert {one for one in named if "/" in one} == {
        module.FORMAT for module in (facts, state, uncertainty, manifest, folder, reference)
    }


def test_uncertainty_beside_a_snapshot(tmp_path):
    import torch

    from unitgain.checkpoint.uncertainty import NAMES, write_uncertainty

    path = write_uncertainty(tmp_path / "a.safetensors", dict.fromkeys(NAMES, torch.ones(2)))
    assert set(read_json(path)) == fields("snapshot", 1)


def test_what_is_left_out_is_listed(place):
    (row,) = read_lines(place / "data" / "skipped.jsonl")
    assert set(row) == {"key", "error"} and "broken.png" in row["key"]
