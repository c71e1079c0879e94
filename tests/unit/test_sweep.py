"""Sweeps: which cells, each evaluated once, kept on disk; and the search that spares most of them."""

import csv
import functools
import gc
import hashlib
import importlib
import json
import re
import shutil
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from unitgain.checkpoint.snapshot import Snapshot, list_snapshots
from unitgain.cli.sweep import SweepCommand
from unitgain.data.digits import digits
from unitgain.denoiser import Denoiser
from unitgain.draw import DrawSettings
from unitgain.draw.images import draw_images
from unitgain.draw.networks import open_network
from unitgain.draw.rows import DataRows
from unitgain.extras import source_hash
from unitgain.hub import MODEL, save_pretrained
from unitgain.infer import prepare
from unitgain.metrics.frechet import frechet_distance, statistics
from unitgain.metrics.metric import Metric
from unitgain.posthoc import reconstruct
from unitgain.posthoc.targets import Length, Target
from unitgain.recipes import recipe
from unitgain.sample import Euler, generate
from unitgain.serial import to_dict
from unitgain.sweep import Cell, CellResult, Judge, Sweep, SweepConfig, sweep, tune, write_csv
from unitgain.sweep.cells import best, best_by
from unitgain.sweep.pictures import draw_pictures
from unitgain.sweep.plots import plot_curves, plot_map, plot_runs, write_results
from unitgain.sweep.run import with_paper_tensors
from unitgain.sweep.table import Table, key_of
from unitgain.sweep.tensors import paper_tensors
from unitgain.train import TrainConfig, train

SETTINGS = DrawSettings(sampler=Euler(), steps=2)
LENGTHS = (0.05, 0.1, 0.15)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on the digits and one of a narrower network, hardly trained."""
    from unitgain.recipes import DIGITS

    folder = tmp_path_factory.mktemp("runs")
    small = DIGITS.network.replace(model_channels=8, channels_per_head=8)
    for name, network in (("main", small), ("guide", small.replace(label_dim=0))):
        recipe = DIGITS.replace(network=network, batch=16, duration=128, snapshot_every=32, rampup=32)
        config = TrainConfig(recipe=recipe, data="digits", tick=64, checkpoint_every=128)
        train(config, folder / name, digits(), quiet=True, tensorboard=False)
    return folder


@pytest.fixture(scope="module")
def judge():
    return Judge.open(["fd_pixels"], "digits")


def bench(runs, judge, out, **changes):
    return Sweep(**{"run": runs / "main", "judge": judge, "out": out, "settings": SETTINGS, **changes})


def config(**changes):
    return SweepConfig(**{"lengths": LENGTHS, "images": 64, **changes})


def test_a_batch_of_nothing_is_refused_before_anything_is_written(runs, judge, tmp_path):
    with pytest.raises(ValueError, match="batch must be at least 1"):
        bench(runs, judge, tmp_path / "out", batch=0)
    assert not (tmp_path / "out").exists()


def count_images(monkeypatch):
    """How many images are drawn from here on, by cell."""
    from unitgain.evaluate import generated

    drawn = []

    def counted(denoiser, decode, seeds, settings, **options):
        drawn.append((settings.guidance, seeds))
        return draw_images(denoiser, decode, seeds, settings, **options)

    monkeypatch.setattr(generated, "draw_images", counted)
    return drawn


def test_cells_tied_and_free():
    tied = config(guidance=(1.0, 2.0)).cells(tied=True)
    assert len(tied) == 6
    assert Cell(length=0.1) in tied and Cell(length=0.1, guidance=2.0, guide_length=0.1) in tied
    fixed = config(guidance=(1.0, 2.0)).cells(tied=False)
    assert Cell(length=0.1, guidance=2.0) in fixed and len(fixed) == 6
    free = config(guidance=(1.0, 2.0), guide_lengths=(0.05, 0.2)).cells()
    assert len(free) == 3 + 3 * 2  # without guidance once, whatever the guide
    patterns = config(patterns=("*.enc.*", "*.dec.*"), base=0.1).cells()
    assert len(patterns) == 6
    assert patterns[0].target() == Target(sigma_rel=0.1, overrides={"*.enc.*": Length(sigma_rel=0.05)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lengths": ()}, "at least one length"),
        ({"lengths": (0.3,)}, "0.3"),
        ({"guide_lengths": ()}, "at least one length"),
        ({"images": 1}, "images >= 2"),
        ({"repeat": 0}, "repeat >= 1"),
        ({"patterns": ("*",)}, "need a base"),
        ({"base": 0.1}, "need a base"),
        ({"guidance": (float("nan"),)}, "finite"),
    ],
)
def test_nonsense_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        config(**changes)


def test_a_value_is_that_of_the_parts_by_hand(runs, judge, tmp_path):
    results = sweep(bench(runs, judge, tmp_path / "sweep"), config(lengths=(0.1,)))
    from unitgain.hub import load

    (average,) = reconstruct(runs / "main", [0.1], tmp_path / "ema")
    data, network = digits(), prepare(load(average.path), torch.float32)
    parts = [images for _, _, images in generate(network, range(64), SETTINGS.sigmas(), sampler=SETTINGS.sampler)]
    drawn = data.encoder.encode(data.encoder.decode(torch.cat(parts)))
    real = statistics(data.encoder.encode(data.images).flatten(1))
    expected = frechet_distance(*statistics(drawn.flatten(1)), *real)
    assert results[0].value == pytest.approx(expected, rel=1e-6)


def test_finished_cells_are_not_drawn_again_and_others_are_added(runs, judge, tmp_path, monkeypatch):
    out = tmp_path / "sweep"
    guided = {"guide": str(runs / "guide")}
    drawn = count_images(monkeypatch)
    first = sweep(bench(runs, judge, out, **guided), config(guidance=(1.0, 1.5)))
    assert len(drawn) == len(first) == 6
    assert len({result.value for result in first}) == 6
    assert sweep(bench(runs, judge, out, **guided), config(guidance=(1.0, 1.5))) == first
    assert len(drawn) == 6
    more = sweep(bench(runs, judge, out, **guided), config(guidance=(1.0, 1.5, 2.0), lengths=(*LENGTHS, 0.2)))
    assert len(drawn) == 12
    assert set(first) <= set(more)
    sweep(bench(runs, judge, out), config())  # without guidance: known, whatever the guide
    assert len(drawn) == 12
    sweep(bench(runs, judge, out), config(repeat=2))
    assert [seeds[0] for _, seeds in drawn[12:]] == [64] * 3
    sweep(bench(runs, judge, out, settings=SETTINGS.replace(steps=3)), config())
    assert len(drawn) == 18


def test_another_metric_is_added_to_the_table(runs, judge, tmp_path):
    out = tmp_path / "sweep"
    sweep(bench(runs, judge, out), config(lengths=(0.1,)))
    both = Judge.open(["fd_pixels", "precision"], "digits")
    results = sweep(bench(runs, both, out), config(lengths=(0.1,)))
    assert [result.metric for result in results] == ["fd_pixels", "precision@pixels"]
    assert results[1].higher and 0 <= results[1].value <= 1


OWN = """
from dataclasses import dataclass
from unitgain.metrics.metric import Metric

@dataclass(frozen=True, kw_only=True)
class Own(Metric):
    kind, reference = "own", False

    def score(self, pair):
        return {value} + pair.images.n
"""


@dataclass(frozen=True, kw_only=True)
class Lacking(Metric):
    """None for images of a guided network; numbers are NumPy's."""

    kind, reference, values = "lacking", False, (np.float32(1), np.float32("nan"), np.float32(3))
    seen: ClassVar[list] = []

    def score(self, pair):
        self.seen.append(pair.images.n)
        return self.values[(len(self.seen) - 1) % 3], np.float32("nan")


def test_a_metric_that_is_not_finite_is_named_and_costs_no_other_value(runs, tmp_path, monkeypatch):
    judge = Judge.open([Lacking(detector="pixels"), "fd_pixels"], "digits")
    monkeypatch.setattr(Lacking, "seen", [])
    sweeping = bench(runs, judge, tmp_path)
    with pytest.raises(ValueError, match=r"lacking@pixels is nan at length 0.1, .*: leave out what has no figure"):
        sweep(sweeping, config())
    assert [row["metric"] for row in Table(tmp_path).rows().values()].count("lacking@pixels") == 2
    assert len(Table(tmp_path).rows()) == 5
    drawn = count_images(monkeypatch)
    found = sweep(sweeping, config(lengths=(0.05, 0.15)))
    assert [result.values for result in found[:2]] == [(1.0,), (3.0,)]
    assert not drawn


def test_a_metric_of_ones_own_is_measured_again_when_its_code_changes(runs, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def measured(module, value):
        (tmp_path / f"{module}.py").write_text(OWN.format(value=value))
        monkeypatch.delitem(sys.modules, module, raising=False)
        judge = Judge.open([f"{module}:Own@pixels"])
        return sweep(bench(runs, judge, tmp_path / "out"), config(lengths=(0.1,), images=4))[0].value

    assert [measured("own_one", 10), measured("own_one", 2000), measured("own_two", 30)] == [14, 2004, 34]
    assert measured("own_one", 10) == 14 and len(Table(tmp_path / "out").rows()) == 3


def test_code_of_ones_own_is_told_by_all_that_it_imports_from_beside_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_pack").mkdir()
    (tmp_path / "own_alone.py").write_text("import json\nimport torch\n")
    (tmp_path / "own_code.py").write_text("import json\nimport own_pack.parts\n")
    (tmp_path / "own_pack" / "__init__.py").write_text("")
    (tmp_path / "own_pack" / "parts.py").write_text("def late():\n    from . import deep\n    import own_code\n")
    (tmp_path / "own_pack" / "deep.py").write_text("VALUE = 1\n")
    (tmp_path / "own_other.py").write_text("")
    alone, code = (importlib.import_module(name).__name__ for name in ("own_alone", "own_code"))
    assert source_hash(alone) == hashlib.sha256((tmp_path / "own_alone.py").read_bytes()).hexdigest()
    seen = [source_hash(code)]
    for file in ("own_pack/deep.py", "own_pack/__init__.py", "own_code.py"):
        (tmp_path / file).write_text((tmp_path / file).read_text() + "# changed\n")
        seen.append(source_hash(code))
    assert len(set(seen)) == 4
    (tmp_path / "own_other.py").write_text("# changed\n")
    assert source_hash(code) == seen[-1]


def test_cells_know_conditions_by_what_is_in_them_and_not_by_where_they_lie(runs, judge, tmp_path, told):
    cell = Cell(length=0.1)
    values = told.conditions | {"style": told.conditions["style"].flip(0)}
    keys = []
    for data in (told, replace(told, name="./elsewhere"), replace(told, conditions=values)):
        one = bench(runs, judge, tmp_path, settings=SETTINGS.replace(conditions=DataRows(data, [3, 4])))
        one.reconstruct([cell])
        keys.append(one.keys(cell, range(8)))
    assert keys[0] == keys[1] != keys[2]


def test_an_interrupted_sweep_goes_on(runs, judge, tmp_path, monkeypatch):
    out = tmp_path / "sweep"
    whole = sweep(bench(runs, judge, tmp_path / "whole"), config())

    def interrupt(done, total):
        if done > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(bench(runs, judge, out), config(), on_images=interrupt)
    with open(out / "cells-0.jsonl", "a") as table:
        table.write('{"key": "cut sh')
    drawn = count_images(monkeypatch)
    assert sweep(bench(runs, judge, out), config()) == whole
    assert len(drawn) == 2
    assert len(Table(out).rows()) == 3


def test_each_length_is_reconstructed_once(runs, judge, tmp_path, monkeypatch):
    from unitgain.sweep import averages

    asked = []

    def counted(run, targets, out, **options):
        asked.append([str(target) for target in targets])
        return reconstruct(run, targets, out, **options)

    monkeypatch.setattr(averages, "reconstruct", counted)
    free = config(guidance=(1.0, 2.0), guide_lengths=(0.05, 0.2), lengths=(0.1,))
    one = sweep(bench(runs, judge, tmp_path, guide=str(runs / "guide")), free)
    assert asked == [["0.100"], ["0.050", "0.200"]]
    assert [(r.cell.guidance, r.cell.guide_length) for r in one] == [(1.0, None), (2.0, 0.05), (2.0, 0.2)]
    sweep(bench(runs, judge, tmp_path, guide=str(runs / "guide")), config(guidance=(1.0, 2.0), lengths=(0.1, 0.15)))
    assert asked[2:] == [["0.150"], ["0.100", "0.150"]]


def test_a_folder_with_one_model_guides_as_that_model(runs, judge, tmp_path):
    """As `save_pretrained` writes it: no run, though it holds a snapshot."""
    single = save_pretrained(list_snapshots(runs / "guide")[-1].path, tmp_path / "model")
    told = config(guidance=(2.0,), lengths=(0.1,))
    by_folder = sweep(bench(runs, judge, tmp_path / "out", guide=str(single)), told)
    by_file = sweep(bench(runs, judge, tmp_path / "out", guide=str(single / MODEL)), told)
    assert by_folder == by_file
    assert len(Table(tmp_path / "out").rows()) == 1  # and the same cell
    with pytest.raises(ValueError, match="guide that is the folder of a run"):
        bench(runs, judge, tmp_path / "out", guide=str(single), guide_t=128)


def test_cells_guided_by_their_own_network_are_those_without_guidance(runs, judge, tmp_path, monkeypatch):
    told = config(lengths=(0.1, 0.15), guidance=(1.0, 3.0), guide_lengths=(0.1,), images=16)
    out = tmp_path / "out"
    drawn = count_images(monkeypatch)
    found = sweep(bench(runs, judge, out, guide=str(runs / "main")), told)
    values = {(one.cell.length, one.cell.guidance): one.value for one in found}
    assert values[0.1, 3.0] == values[0.1, 1.0] and values[0.15, 3.0] != values[0.15, 1.0]
    assert len(drawn) == 3  # what is known is not drawn again
    rows = list(Table(out).rows().values())
    assert [row["guide"] is None for row in rows] == [row["cell"]["guidance"] == 1 for row in rows]
    copied = shutil.copytree(runs / "main", tmp_path / "copy" / "main")
    drawn.clear()
    assert sweep(bench(runs, judge, out, guide=str(copied)), told) == found and not drawn
    (file,) = bench(runs, judge, out).main.folder.glob("*-0.100.safetensors")
    tuned = tune(bench(runs, judge, out, guide=str(file)), replace(told, guide_lengths=None), evaluations=4)
    assert {one.value for one in tuned if one.cell.length == 0.1} == {values[0.1, 1.0]} and not drawn


def test_rows_of_networks_guided_by_themselves_do_not_count(runs, judge, tmp_path):
    sweep(bench(runs, judge, tmp_path, guide=str(runs / "guide")), config(lengths=(0.1,), guidance=(2.0,), images=16))
    table = tmp_path / "cells-0.jsonl"
    row = json.loads(table.read_text())
    assert len(Table(tmp_path).rows()) == 1
    table.write_text(json.dumps(row | {"guide": row["network"]}) + "\n")
    assert not Table(tmp_path).rows()


@pytest.mark.parametrize("changes", [{}, {"guide_lengths": (0.1,), "lengths": (0.1,)}])
def test_a_run_that_guides_each_of_its_averages_by_itself_is_refused(runs, judge, tmp_path, changes):
    for job in (sweep, functools.partial(tune, evaluations=1)):
        with pytest.raises(ValueError, match="leaves it unguided: name another one, or --guide self"):
            job(bench(runs, judge, tmp_path, guide=str(runs / "main")), config(guidance=(1.0, 2.0), **changes))
    assert not list(tmp_path.glob("*"))
    copied = shutil.copytree(runs / "main", tmp_path / "copy" / "main")
    with pytest.raises(ValueError, match="leaves it unguided"):
        sweep(bench(runs, judge, tmp_path, guide=str(copied)), config(guidance=(1.0, 2.0), **changes))
    assert not list(tmp_path.glob("cells*"))


def test_lengths_that_agree_in_three_decimals_are_cells_of_their_own(runs, judge, tmp_path):
    given = bench(runs, judge, tmp_path)
    first, second, third = sweep(given, config(lengths=(0.1204, 0.12, 0.1196)))
    assert len({one.value for one in (first, second, third)}) == 3
    for one in (first, second, third):
        with Snapshot(given.main.path(one.cell.target())) as average:
            assert average.described["sigma_rel"] == one.cell.length
    with pytest.raises(ValueError, match="files of one name"):
        sweep(given, config(lengths=(0.12, 0.1200000001)))


def test_one_tensor_after_the_other(runs, judge, tmp_path):
    swept = config(patterns=("network.enc.*", "network.dec.*"), base=0.1, lengths=(0.05, 0.1, 0.2))
    found = sweep(bench(runs, judge, tmp_path), swept)
    by = {(result.cell.pattern, result.cell.length): result.value for result in found}
    assert len(by) == 6
    plain = sweep(bench(runs, judge, tmp_path), config(lengths=(0.1,)))[0].value
    # where the pattern has the length of the others, it is the plain average up to the order of reading
    assert by["network.enc.*", 0.1] == pytest.approx(plain, rel=1e-3)
    assert by["network.dec.*", 0.1] == pytest.approx(plain, rel=1e-3)
    assert by["network.enc.*", 0.05] != by["network.dec.*", 0.05]


@pytest.mark.parametrize("letter", "abcdefg")
def test_the_papers_tensors_are_in_every_config(letter):
    with torch.device("meta"):
        names = [name for name, _ in Denoiser(recipe(f"edm2-img512-config-{letter}").network).named_parameters()]
    found = paper_tensors(names)
    assert len(found) == len(set(found)) == 28
    assert not [name for name in found if "norm" in name or name.endswith((".bias", ".gain"))]


def test_a_small_network_has_some_of_them(runs, judge, tmp_path):
    given = bench(runs, judge, tmp_path)
    swept = with_paper_tensors(given, config(patterns=("D.6", "network.dec.*"), base=0.1))
    assert 0 < len(swept.patterns) - 1 < 28
    assert swept.patterns[-1] == "network.dec.*"
    assert with_paper_tensors(given, config()) == config()


def test_a_picture_is_drawn_again_where_another_cell_is_the_best(runs, judge, tmp_path):
    given, path = bench(runs, judge, tmp_path), tmp_path / "pictures.png"
    results = sweep(given, config(lengths=(0.05, 0.15)))
    others = [replace(result, values=(-result.value,)) for result in results]
    assert best(results).cell != best(others).cell
    assert draw_pictures(given, results, path)
    before = path.read_bytes()
    assert draw_pictures(given, others, path)
    assert path.read_bytes() != before


def test_what_cannot_be_swept_is_refused_before_anything_is_drawn(runs, judge, tmp_path):
    with pytest.raises(ValueError, match="need a guide"):
        sweep(bench(runs, judge, tmp_path), config(guidance=(1.0, 2.0)))
    for guide in ("self", None):
        with pytest.raises(ValueError, match="folder of a run"):
            sweep(bench(runs, judge, tmp_path, guide=guide), config(guide_lengths=(0.1,)))
    with pytest.raises(FileNotFoundError):
        bench(runs, judge, tmp_path, run=tmp_path / "missing")
    with pytest.raises(ValueError, match="unknown metric 'fda'"):
        Judge.open(["fda"], "digits")
    assert not list(tmp_path.glob("cells*"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guide": "self"}, "--guide without guidance"),
        ({"settings": SETTINGS.replace(interval=(0.1, 2.0), without=("label",))}, "--interval and --without without"),
        ({"guide": "self", "guide_t": 128}, "128 images seen of the guide"),
        ({"guide_t": 128}, "128 images seen of the guide"),
    ],
)
def test_what_is_said_of_a_guide_that_guides_nothing_is_refused(runs, judge, tmp_path, changes, words):
    for job in (sweep, functools.partial(tune, evaluations=1)):
        with pytest.raises(ValueError, match=words):
            job(bench(runs, judge, tmp_path, **changes), config())
    assert not list(tmp_path.glob("*"))


def test_a_sweep_that_is_done_keeps_no_network(runs, judge, tmp_path, monkeypatch):
    from unitgain.sweep import run

    opened = []

    def watched(*args):
        network = open_network(*args)
        opened.append(weakref.ref(network.denoiser))
        return network

    monkeypatch.setattr(run, "open_network", watched)
    benches = [bench(runs, judge, tmp_path, guide=str(runs / "guide"), t=t) for t in (64, 128)]
    for one in benches:
        results = sweep(one, config(guidance=(1.0, 2.0), lengths=(0.1,), images=16))
        assert draw_pictures(one, results, tmp_path / "pictures.png")
    gc.collect()
    assert len(opened) == 8 and not any(network() for network in opened)


def test_files_of_sweeps_with_other_guides_and_times_have_names_of_their_own(tmp_path):
    guides = [tmp_path / name for name in ("weak-0.1.safetensors", "weak-0.2.safetensors", "a/weak", "b/weak")]
    for guide in guides[2:]:
        guide.mkdir(parents=True)
    ends = [
        SweepCommand(runs=(), metric="fid", guide="run", guide_nimg=nimg).stem("sweep", ()) for nimg in (256, 2.56e2)
    ]
    assert ends[0] == ends[1]
    asked = [{"guide": str(guide)} for guide in guides] + [{"guide": str(guides[2]), "guide_nimg": 80}, {}]
    asked += [{"nimg": times} for times in ((80.0,), (80.0, 240.0), (80.0, 160.0, 240.0), (80.0, 120.0, 240.0))]
    commands = [SweepCommand(runs=(tmp_path,), metric="fid", **one) for one in asked]
    stems = [command.stem("sweep", command.nimg or ()) for command in commands]
    assert len(set(stems)) == len(asked)
    assert stems[0].startswith("sweep-weak-0.1-") and stems[5:8] == ["sweep", "sweep-80", "sweep-80-240"]


def results_of(function: Callable[[float, float], float], repeat: int = 1) -> list[CellResult]:
    return [
        CellResult(
            cell=Cell(length=length, guidance=weight, guide_length=None if weight == 1 else length),
            metric="fd",
            values=tuple(function(length, weight) + 0.1 * k for k in range(repeat)),
            images=10,
        )
        for length in LENGTHS
        for weight in (1.0, 1.5, 2.0)
    ]


def comments(path):
    """The texts of an SVG, which matplotlib writes as comments beside their outlines."""
    found = re.findall(r"<!-- (.*?) -->", path.read_text())
    return {*found, *(part for text in found for part in text.split(", "))}


def test_csv_and_pictures(tmp_path):
    results = results_of(lambda length, weight: abs(length - 0.1) + abs(weight - 1.5), repeat=2)
    write_csv(tmp_path / "sweep.csv", results)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert len(rows) == 9
    assert rows[0]["guide_length"] == ""
    assert (float(rows[4]["value"]), float(rows[4]["worst"]), rows[4]["repeat"]) == (0.0, 0.1, "2")
    assert best(results).cell == Cell(length=0.1, guidance=1.5, guide_length=0.1)
    assert {key: one.cell.length for key, one in best_by(results, lambda r: r.cell.guidance).items()} == {
        1.0: 0.1,
        1.5: 0.1,
        2.0: 0.1,
    }
    plot_curves(results, tmp_path / "curves.svg")
    plot_map(results, tmp_path / "map.png")
    plot_runs({"one": results, "two": results_of(lambda length, weight: length + weight)}, tmp_path / "runs.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert "w = 1.5" in text or text.count("<path") > 3
    assert (tmp_path / "map.png").stat().st_size > 1000
    plot_map(results, tmp_path / "map.svg")
    assert "lower is better" in comments(tmp_path / "map.svg")
    assert {f"{result.value:.3g}" for result in results} <= comments(tmp_path / "map.svg")
    assert not any("standard error" in text for text in comments(tmp_path / "map.svg"))
    known = [replace(result, errors=(0.3, 0.3)) for result in results]
    plot_map(known, tmp_path / "map.svg")
    assert any("standard error" in text for text in comments(tmp_path / "map.svg"))
    with pytest.raises(ValueError, match="ends in one of"):
        plot_curves(results, tmp_path / "curves.gif")
    with pytest.raises(ValueError, match="no results"):
        plot_map([], tmp_path / "map.svg")


def test_a_table_that_is_replaced_says_which_cells_are_not_in_it_any_more(tmp_path, capsys):
    results, table = results_of(max), tmp_path / "sweep.csv"
    write_csv(table, results[:4])
    write_csv(table, results)
    assert not capsys.readouterr().err
    write_csv(table, results[3:])
    assert "held 3 rows of other cells" in " ".join(capsys.readouterr().err.split())
    assert len(list(csv.DictReader(table.open()))) == 6
    write_csv(table, [replace(result, images=result.images + 1) for result in results[3:]])
    assert "held 6 rows of other cells" in " ".join(capsys.readouterr().err.split())


def test_tables_on_narrow_terminals_and_pictures_of_several_runs_tell_apart(runs, tmp_path, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("main", "guide", "other"):
        shutil.copytree(runs / ("main" if name == "main" else "guide"), tmp_path / name)
    cells = ("--lengths", 0.1, "--images", 8, "--steps", 2, "--metric", "fd_pixels", "--reference", "digits")
    names = [f"network.enc.8x8_block0.branch.{part}.weight" for part in ("conv0", "conv1")]
    patterns = [word for name in names for word in ("--pattern", name)]
    text = call("sweep", tmp_path / "main", *cells, "--base", 0.1, *patterns).out
    assert all(name in text for name in names)
    for other in ("guide", "other"):
        call("sweep", tmp_path / "main", tmp_path / other, *cells)
    assert len(list((tmp_path / "main" / "sweep").glob("runs*.svg"))) == 2


@dataclass
class Bowl(Sweep):
    """A sweep whose values are known."""

    function: Callable[[float, float], float] = max
    evaluated: list[Cell] = field(default_factory=list)

    def __post_init__(self):
        self.main = SimpleNamespace(folder=self.run, t=64.0)
        self.guide_averages, self.table = None, Table(self.out)

    def out_of_reach(self, config):
        return set(), set()

    def reconstruct(self, cells, on_progress=None):
        assert cells

    def keys(self, cell, seeds):
        return {"fd_pixels": key_of({**to_dict(cell), "seeds": [seeds.start, seeds.stop]})}

    def _measure(self, cell, seeds, keys, on_images):
        self.evaluated.append(cell)
        value = self.function(cell.length, cell.guidance)
        return [{"key": key, "metric": name, "value": value} for name, key in keys.items()]


def bowl_of(function, judge, out):
    return Bowl(Path("bowl"), judge, out, guide="self", settings=SETTINGS, function=function)


SPACE = SweepConfig(
    lengths=tuple(round(0.02 * k, 2) for k in range(1, 11)), guidance=(1.0, 1.2, 1.4, 1.6, 1.8, 2.0), images=64
)


def bowl(length, weight, peak=(0.06, 1.4)):
    """As sweeps look: the best length depends on the weight, far from it the distance explodes."""
    return 0.2 + 40 * (length - peak[0] - 0.05 * (weight - peak[1])) ** 2 + (weight - peak[1]) ** 2


@pytest.mark.parametrize("peak", [(0.06, 1.4), (0.14, 1.0), (0.04, 1.8)])
def test_a_search_finds_the_best_in_a_third_of_the_evaluations(judge, tmp_path, peak):
    function = functools.partial(bowl, peak=peak)
    stub = bowl_of(function, judge, tmp_path)
    results = tune(stub, SPACE, evaluations=20)
    assert len(results) == len(stub.evaluated) == len({result.cell for result in results}) == 20
    least = min(function(length, weight) for length in SPACE.lengths for weight in SPACE.guidance)
    assert min(result.value for result in results) <= 1.05 * least


def test_a_search_goes_on_where_it_stopped(judge, tmp_path):
    stub = bowl_of(bowl, judge, tmp_path)
    tune(stub, SPACE, evaluations=7)
    assert len(stub.evaluated) == 7
    again = bowl_of(bowl, judge, tmp_path)
    table = tmp_path / "cells-0.jsonl"
    row = json.loads(table.read_text().splitlines()[0])
    with open(table, "a") as file:
        file.write(
            "".join(json.dumps({**row, "value": one}) + "\n" for one in (None, [], "x", 10**400)) + '{"key": "cut'
        )
    results = tune(again, SPACE, evaluations=10)
    assert len(results) == 10
    assert len(again.evaluated) == 3
    assert [result.cell for result in results][:7] == stub.evaluated
    assert len(tune(again, config(lengths=(0.1,), guidance=(1.0, 1.5)), evaluations=9)) == 2


def test_what_cannot_be_searched_is_refused(judge, tmp_path):
    stub = bowl_of(bowl, judge, tmp_path)
    for changes, words in (
        ({"lengths": (0.1, 0.2, 0.25)}, "start:stop:step"),
        ({"patterns": ("*",), "base": 0.1}, "patterns"),
        ({"guide_lengths": (0.1,)}, "folder of a run"),
    ):
        with pytest.raises(ValueError, match=words):
            tune(stub, config(guidance=(1.0, 2.0), **changes), evaluations=3)


def test_a_search_writes_through_no_link(judge, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cells-0.jsonl").symlink_to(precious)
    with pytest.raises(OSError, match="leads out of"):
        tune(bowl_of(bowl, judge, tmp_path / "out"), SPACE, evaluations=1)
    assert precious.read_text() == "precious"


def test_a_search_over_a_real_run_shares_the_table_of_a_sweep(runs, judge, tmp_path, monkeypatch):
    swept = sweep(bench(runs, judge, tmp_path), config())
    drawn = count_images(monkeypatch)
    found = tune(bench(runs, judge, tmp_path), config(), evaluations=3)
    assert {result.cell: result.value for result in found} == {result.cell: result.value for result in swept}
    assert drawn == []
    twice = tune(bench(runs, judge, tmp_path), config(repeat=2), evaluations=3)
    assert sum(len(seeds) for _, seeds in drawn) == 3 * 64  # the second of each, with seeds of its own
    assert {one.cell: one.values for one in twice} == {
        one.cell: one.values for one in sweep(bench(runs, judge, tmp_path), config(repeat=2))
    }
    assert all(one.value == min(one.values) != max(one.values) for one in twice)
    again = tune(bench(runs, judge, tmp_path), config(repeat=2), evaluations=3)
    assert [one.values for one in again] == [one.values for one in twice]  # as the table has kept them
    assert sum(len(seeds) for _, seeds in drawn) == 3 * 64
    assert json.loads((tmp_path / "cells-0.jsonl").read_text().splitlines()[0])["record"]["images"] == 64


def test_the_best_length_over_training_time(runs, judge, tmp_path):
    early, late = (sweep(bench(runs, judge, tmp_path, t=t), config()) for t in (64, 128))
    assert {result.nimg for result in early} == {64}
    assert [one.value for one in early] != [one.value for one in late]
    files = write_results([*early, *late], tmp_path, "sweep-64-128")
    rows = list(csv.DictReader(files[0].open()))
    assert [row["nimg"] for row in rows] == ["64"] * 3 + ["128"] * 3
    assert "128 images" in comments(next(path for path in files if "curves" in path.name))
    assert "best EMA length sigma_rel" in comments(next(path for path in files if "times" in path.name))
    assert len(write_results(early, tmp_path, "sweep-64")) == 2  # a curve, and nothing over time


def test_a_search_leaves_out_lengths_that_snapshots_cannot_give(runs, judge, tmp_path, capsys):
    lengths = (0.002, 0.052, 0.102)
    with pytest.raises(ValueError, match="out of reach"):
        sweep(bench(runs, judge, tmp_path), config(lengths=lengths))
    found = tune(bench(runs, judge, tmp_path), config(lengths=lengths), evaluations=3)
    assert sorted(one.cell.length for one in found) == [0.052, 0.102]
    assert "left out: length 0.002" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="none of the lengths"):
        tune(bench(runs, judge, tmp_path), config(lengths=(0.001, 0.002)), evaluations=3)
