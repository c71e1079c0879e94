"""The evidence in small: its jobs end and resume, and its verdicts are those of the protocol's criteria."""

import gzip
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "evidence"))

import claims
import criteria
import judges
import run
import sets
from cells import METRICS, Cell, Compare, Picture, Train
from claims import jobs
from report import report
from scaled import DROPOUT, HALF, PAPER_T_REF, Scale, pairs, rate_runs, tracked_run
from verdicts import FINDINGS

from unitgain.draw.settings import DrawSettings
from unitgain.lock import hold

SMALL = Scale(
    width=8,
    images=256,
    batch=2,
    sweep=12,
    score=16,
    lengths=(0.06, 0.10),
    few=(0.06,),
    weights=(2.0,),
    sampling=DrawSettings(steps=2),
    heun=DrawSettings(steps=3),
    pictures=("emoji32", "food32"),
    picture_width=8,
    picture_images=64,
    styled_images=64,
    measured=12,
    styled_measured=12,
    picture_sampling=DrawSettings(steps=2, dtype="auto"),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with sets of noise, judged by the means of their pixels and by a classifier of hardly any training."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for name, edge in (("fashion16", 16), ("emoji32", 32), ("food32", 32)):
        parts, about = [], sets.SETS[name]
        for count in (40, 20):
            pixels = rng.integers(0, 255, (count, about.channels, edge, edge)).astype(np.uint8)
            parts += [pixels, np.arange(count) % about.label_dim, np.arange(count) % len(sets.STYLES)]
        classes = np.array([f"class {number}" for number in range(about.label_dim)])
        np.savez(tmp_path / "data" / f"{name}.npz", *parts, classes=classes)
    weights = tmp_path / "weights"
    weights.write_bytes(b"none")
    monkeypatch.setattr(judges, "find_packages", lambda folder: None)
    monkeypatch.setattr(judges, "effnet_weights", lambda: str(weights))
    monkeypatch.setattr(judges, "effnet", lambda images: images.float().mean(1).flatten(1)[:, :8])
    monkeypatch.setattr(judges, "BATCH", 8)
    return tmp_path


def test_jobs_are_done_once_and_gone_on_with(folder):
    with pytest.raises(SystemExit):
        run.stop(15, None)
    run.work(folder, SMALL, "posthoc", hours=1e-9)  # no time: nothing but the floor
    done = run.Results(folder / "results.jsonl").done
    assert sorted(key for key in done if "machine" not in key) == ["floor fashion16", "floor fashion16 sweep"]
    run.work(folder, SMALL, "posthoc")
    results = run.Results(folder / "results.jsonl")
    expected = [job.key for job in jobs(SMALL, {}, "posthoc")]
    assert set(expected) <= results.done.keys()
    for job in jobs(SMALL, {}, "posthoc"):
        row = results.done[job.key]
        assert "failed" not in row
        if isinstance(job, Train):
            assert row["images"] == row["nimg"] == SMALL.images // 8
        else:
            assert row["difference"] < 0.05
    size = len(results.rows)
    run.work(folder, SMALL, "posthoc")
    assert len(run.Results(folder / "results.jsonl").rows) == size
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"key": "cut')
    assert len(run.Results(folder / "results.jsonl").rows) == size  # and what comes next is whole

    workplace, main = run.Workplace(folder, SMALL), tracked_run(SMALL)[0]
    further = workplace.run(Train(main, SMALL.images // 4))
    assert further["images"] == SMALL.images // 8
    pair = pairs(main, SMALL)[HALF]
    guide, nimg = pair.guide, pair.nimg
    workplace.run(Train(guide, nimg))
    cell = Cell(main, SMALL.images // 8, 0.1, 8, guidance=500.0, guide=guide, guide_nimg=nimg, guide_length=0.06)
    guided, alone = workplace.run(cell), workplace.run(Cell(main, SMALL.images // 8, 0.1, 8))
    assert guided["values"]["fd@effnet"] != alone["values"]["fd@effnet"]
    assert 0 <= alone["values"]["accuracy"] <= 1
    by_heun = workplace.run(Cell(main, SMALL.images // 8, 0.1, 8, heun=True))
    assert by_heun["key"] != alone["key"] and by_heun["values"]["fd@effnet"] != alone["values"]["fd@effnet"]
    dropped = pairs(main, SMALL)[DROPOUT].main
    workplace.run(Train(dropped, SMALL.images // 8))
    by_weight = [Cell(dropped, SMALL.images // 8, 0.1, 8, guidance=weight) for weight in (1.0, 500.0)]
    alone_by_itself, by_itself = (workplace.run(one) for one in by_weight)
    assert by_itself["key"] != alone_by_itself["key"]
    assert by_itself["values"]["fd@effnet"] != alone_by_itself["values"]["fd@effnet"]
    name = claims.some_tensors(main)[0]
    mixed = workplace.run(Cell(main, SMALL.images // 8, 0.1, 8, pattern=name, pattern_length=0.06))
    assert "values" in mixed
    assert "failed" in workplace.run(Cell(main, SMALL.images // 8, 0.3, 8))  # and the list goes on

    shutil.rmtree(folder / "runs")  # known from results alone
    ended = run.Workplace(folder, SMALL, deadline=0.0)
    assert ended.run(Cell(main, SMALL.images // 8, 0.1, 8))["cut"]
    again = workplace.run(Cell(main, SMALL.images // 8, 0.1, 8))
    assert again["values"] == alone["values"]
    compared = next(job for job in jobs(SMALL, {}, "posthoc") if isinstance(job, Compare))
    assert workplace.run(compared)["difference"] == results.done[compared.key]["difference"]


def test_processes_share_runs_and_draw_only_what_is_trained(folder):
    workplace, results = run.Workplace(folder, SMALL), run.Results(folder / "results.jsonl")
    main, tracked = tracked_run(SMALL)
    first, second, *_ = (job for job in jobs(SMALL, {}, "posthoc") if isinstance(job, Train))
    with hold(folder / "locks" / main.name):  # as another process does
        assert run.first_free([first], workplace, results) is None
        row = run.first_free([first, second], workplace, results)
    assert row is not None and row["key"] == second.key == Train(tracked, second.nimg).key
    compare = next(job for job in jobs(SMALL, {}, "posthoc") if isinstance(job, Compare))
    assert not run.is_ready(compare, results.done)
    results.add({"key": first.key})
    assert run.is_ready(compare, results.done)
    assert run.first_free([first], workplace, results) is None  # done in the meantime
    guide, nimg = pairs(main, SMALL)[HALF].guide, pairs(main, SMALL)[HALF].nimg
    cell = Cell(main, first.nimg, 0.1, 8, guidance=2.0, guide=guide, guide_nimg=nimg, guide_length=0.06)
    assert not run.is_ready(cell, results.done)
    assert run.is_ready(cell, {**results.done, Train(guide, nimg).key: {}})


def test_pictures(folder, tmp_path, monkeypatch):
    (tmp_path / "comments.md").write_text("# Comments\n\n## posthoc\n\nNot run, to see this.\n")
    monkeypatch.setattr("report.COMMENTS", tmp_path / "comments.md")
    run.work(folder, SMALL, "pictures")
    results = run.Results(folder / "results.jsonl")
    assert [row["key"] for row in results.rows if "failed" in row] == []
    assert [row["nimg"] for row in results.rows if row["kind"] == "picture"] == [8, 8, 32, 32, 64, 64]
    page = report(folder, tmp_path, SMALL)
    assert "In all 128 images trained and 312 drawn" in page and page.count("Measured on: ") == 1
    assert "`emoji32`, after 64 images: " in page and "Smileys & Emotion, People & Body" in page
    assert "are nearest to the one that they are to be, of all those kept from training" in page
    assert "in float32" in page or "in bfloat16" in page
    assert page.rstrip().endswith("Not run, to see this.")
    assert (tmp_path / "evidence-pictures-emoji32.png").stat().st_size > 1000
    assert (tmp_path / "evidence-pictures-food32.png").stat().st_size > 1000
    assert page.count("| not run yet |") == len(FINDINGS)


def test_nearest_images_and_idx(tmp_path):
    data = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    with gzip.open(tmp_path / "x.gz", "wb") as file:
        file.write(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]) + data.numpy().tobytes())
    assert sets.read_idx(tmp_path / "x.gz").equal(data)
    assert sets.halved(torch.tensor([[[[0, 4], [8, 12]]]], dtype=torch.uint8)).item() == 6
    dataset = sets.ArrayDataset(name="x", images=torch.tensor([0, 100, 200], dtype=torch.uint8).reshape(3, 1, 1, 1))
    assert run.nearest(torch.tensor([[[[140]]]], dtype=torch.uint8), dataset).item() == 100


def test_drawings_kept_from_training_have_others_in_it(tmp_path):
    """Of packages made up: the colour of a picture says its emoji and its style; EmojiOne lacks every other emoji."""
    known = [{"unified": f"1F4{n:02X}-FE0F", "category": "Food & Drink", "name": f"DISH {n}"} for n in range(12)]
    known.append({"unified": "1F600", "category": "Smileys & Emotion", "name": "FACE"})
    listed = [{**each, "sort_order": -number} for number, each in enumerate(known)]
    for style, (package, place) in enumerate(sets.STYLES.values()):
        files = {"package/emoji.json": json.dumps(listed).encode()}
        for number, each in enumerate(known):
            if not (package.startswith("emojione") and number % 2):
                buffer, name = io.BytesIO(), each["unified"].lower().removesuffix("-fe0f")
                shape = Image.new("RGBA", (128, 128), (10 * number, 60 * style, 0, 255))
                shape.save(buffer, format="webp" if place.endswith("webp") else "png", lossless=True)
                files[place.format(name)] = buffer.getvalue()
        with tarfile.open(sets.packed_path(package, tmp_path), "w:gz") as archive:
            for path, data in files.items():
                about = tarfile.TarInfo(path)
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
    train, test, classes = sets.drawings(tmp_path, "Food & Drink")
    assert list(classes) == [f"dish {number}" for number in reversed(range(12))]
    assert (len(train.images), len(test.images)) == (42 - 42 // 11, 42 // 11)
    for split in (train, test):
        assert split.images.shape[1:] == (3, 32, 32)
        assert (split.images[:, 0, 5, 5] == 10 * (11 - split.labels)).all()
        assert (split.images[:, 1, 5, 5] == 60 * split.styles).all()
    pairs_of = [set(zip(part.labels.tolist(), part.styles.tolist(), strict=True)) for part in (train, test)]
    assert not pairs_of[0] & pairs_of[1] and len(pairs_of[0] | pairs_of[1]) == 42
    assert set(test.labels.tolist()) <= set(train.labels.tolist())


def test_the_nearest_names(monkeypatch):
    monkeypatch.setattr(judges, "effnet", lambda images: images.float().flatten(1))
    pixels = torch.tensor([[1, 9], [9, 1]], dtype=torch.uint8).reshape(2, 1, 1, 2)
    known = sets.ArrayDataset(name="x", images=pixels, labels=torch.tensor([3, 1]), classes=tuple("abcd"))
    namer = judges.nearest_namer(known)
    assert namer(torch.tensor([[50, 40], [0, 200], [2, 1]]).reshape(3, 1, 1, 2)).tolist() == [1, 3, 1]


@pytest.mark.parametrize(("papers", "verdict"), [(True, "agrees"), (False, "does not")])
def test_verdicts(tmp_path, papers, verdict):
    """Results made up so that all claims hold, and so that none does."""
    scale = Scale()
    results = made_up(scale, papers)
    assert {name: finding(results, scale).verdict for name, finding in FINDINGS.items()} == dict.fromkeys(
        FINDINGS, verdict
    )
    halved = {key: row for key, row in results.items() if "seed1" not in key}
    for name, finding in FINDINGS.items():
        if name != "posthoc":
            assert finding(halved, scale).verdict == "undecided"


def test_a_step_up_refutes_the_order_of_configs_and_a_missing_one_leaves_it_open():
    scale, configs = Scale(), FINDINGS["configs"]
    results = made_up(scale, True)
    worse = {
        key: {**row, "values": {name: 1.5 * value for name, value in row["values"].items()}}
        if key.startswith("score edm2-img512-config-d-")
        else row
        for key, row in results.items()
    }
    found = configs(worse, scale)
    assert found.verdict == "does not" and any(note.startswith("EDM2 C to EDM2 D: does not (") for note in found.notes)
    ends = {key: row for key, row in results.items() if not key.startswith("score edm2-img512-config-d-")}
    found = configs(ends, scale)
    assert found.verdict == "undecided" and "EDM2 C to EDM2 D: not run yet." in found.notes
    tied = with_scores(results, lambda key: 1.0 + 0.1 * ("seed1" in key))
    assert configs(tied, scale).verdict == "undecided"
    up_between = with_scores(tied, lambda key: 1.0 + 0.1 * ("seed1" in key) + ("config-b-" in key))
    assert configs(up_between, scale).verdict == "does not"  # whatever G and A are


def test_a_part_that_is_refuted_refutes_the_order_of_edm2plus():
    scale, results = Scale(), made_up(Scale(), True)
    order = FINDINGS["order"]
    low = with_scores(results, lambda key: 0.1 + 0.001 * ("seed1" in key) if "img64-config-b-" in key else None)
    assert order(low, scale).verdict == "does not"


def test_what_was_tried_is_told_and_decides_nothing():
    scale = Scale()
    results = made_up(scale, False)
    for claim, count in {"configs": 4, "half": 4, "order": 4, "rate": len(METRICS)}.items():
        found = FINDINGS[claim](results, scale)
        assert sum(note.startswith("Tried, ") for note in found.notes) == count
        keys = {one.run.name for one in claims.tries(claim, scale, results)}
        usual = {run.name for of_setting in rate_runs(scale)["lr"] for run in of_setting}
        without = {
            key: row
            for key, row in results.items()
            if not any(name in key and (name not in usual or str(scale.images) in key) for name in keys)
        }
        if claim != "rate":  # whose whole run at the middle rate is that of other claims
            assert not any(note.startswith("Tried, ") for note in FINDINGS[claim](without, scale).notes)
        assert FINDINGS[claim](without, scale).verdict == found.verdict == "does not"
    labels = [one.what for one in claims.tries("configs", scale, results)]
    assert "B, half the lowest rate of the grid, 0.001" in labels
    deeper = [one.run.recipe.network.num_blocks for one in claims.tries("half", scale, results)]
    assert deeper == [2] * 4


def test_lengths_at_an_end_say_so_and_magnitudes_are_told_by_largest_too():
    scale = Scale()
    assert criteria.told_lengths((0.02, 0.1, 0.24), scale) == "0.02 (an end), 0.1, 0.24 (an end)"
    assert criteria.told_lengths((0.04,), scale.coarse) == "0.04"  # both are ends
    rows = [
        {"nimg": nimg, "magnitudes": {"a": {"weight_max": a}, "b": {"weight_max": b}}}
        for nimg, a, b in ((1, 9.0, 9.0), (10, 1.0, 4.0), (100, 3.0, 4.0))
    ]
    assert criteria.growth(rows, "weight_max") == 3.0
    assert criteria.growth_of_largest(rows, "weight_max") == 1.0


def test_differences_are_judged_seed_by_seed():
    metric = METRICS[0]
    a, b = (
        [{metric: value} for value in values] for values in ((1.0, 1.4), (2.0, 1.5))
    )  # spread 0.5, means 0.55 apart
    assert criteria.lower(a, b, metric) == [True, None] and criteria.lower(b, a, metric) == [False, None]
    assert criteria.not_above(a, b, metric) == [True, True] and criteria.not_above(b, a, metric) == [False, True]
    assert criteria.lower(a, b[:1], metric) == criteria.not_above(a, b[:1], metric) == [None, None]
    assert [criteria.all_of(parts) for parts in ([True, True], [True, None], [None, False])] == [True, None, False]


def with_scores(results, value):
    """Results with scores, and nothing else, of a value by key, in all metrics; None keeps what is there."""
    return {
        key: {**row, "values": dict.fromkeys(row["values"], value(key))}
        if key.startswith("score ") and value(key) is not None
        else row
        for key, row in results.items()
    }


def made_up(scale, papers):
    results = {}
    while missing := [job for job in jobs(scale, results) if job.key not in results]:
        for job in missing:
            results[job.key] = {"key": job.key, **made_up_row(job, scale, papers)}
    return results


def made_up_row(job, scale, papers):
    name = job.run.name.partition("-lr")[0]
    if isinstance(job, Train):
        config = name[-1]
        grows = {"c": (2.0, 1.5), "d": (1.1, 3.0)}.get(config, (1.0, 1.0)) if papers else (3.0, 1.0)
        first, last = ({"activation_max": a, "weight_max": w} for a, w in ((1.0, 1.0), grows))
        times = (job.nimg // 4, job.nimg)
        magnitudes = [{"nimg": t, "magnitudes": {"Enc": row}} for t, row in zip(times, (first, last), strict=True)]
        return {"kind": "train", "images": job.nimg, "nimg": job.nimg, "magnitudes": magnitudes}
    if isinstance(job, Compare):
        values = dict.fromkeys(METRICS, 1.0)
        return {"kind": "compare", "difference": 1e-3 if papers else 0.5, "reconstructed": values, "tracked": values}
    if isinstance(job, Picture):
        return {"kind": "picture", "run": name, "nimg": job.nimg}
    return {"kind": "cell", "values": dict.fromkeys((*METRICS, "kid@effnet", "accuracy"), distance(job, scale, papers))}


def distance(cell, scale, papers):
    """A parabola over the length, with its lowest point, height and width where the claims have them, or not."""
    recipe, name = cell.run.recipe, cell.run.name.partition("-lr")[0].partition("-tref")[0]
    config = name.partition("config-")[2] or "g"
    edm2 = name.startswith("edm2-")
    best_first = tuple("gfedcba") if edm2 else ("g-bottleneck", "f-bottleneck", "d", "a", "g", "f", "b")
    heights = {each: 1 + 0.1 * place for place, each in enumerate(best_first)}
    height, width = heights.get(config.removesuffix("-ms"), 1.3), 1.0 if config == "b" else 4.0
    place = 3 + (config in "efg") * 3 if edm2 else 4  # of the lowest point among the lengths
    if edm2 and config == "g":
        usual = PAPER_T_REF / scale.factor / scale.batch
        place += {0.02: 1, 0.08: -1}.get(recipe.lr, 0) - (cell.nimg < scale.images)
        place += (recipe.t_ref < usual) - (recipe.t_ref > usual)
    if cell.guide is not None:
        height, place = 0.5 + 0.1 * abs(cell.guidance - 1.5), 1
    if not papers:
        height, width, place = 3 - height, 5 - width, 4
        if cell.guide is not None:
            height, place = 5 - 0.5 * cell.guide.recipe.network.model_channels / scale.width, 7
    gain = (0.3 if (config == "b") is papers else 0.1) * (cell.pattern_length == claims.TENSOR_LENGTHS[0])
    near = scale.lengths.index(cell.length) - place if cell.length in scale.lengths else 0
    return height * (1 + 0.02 * width * near**2 - gain) + (0.001 if cell.run.seed else 0)
