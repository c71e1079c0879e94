"""What `watch` and `report` are made of: characters, pooled noise levels, the state of a folder."""

import base64
import dataclasses
import fcntl
import io
import itertools
import json
import os
import re
import threading
import time

import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from rich.console import Console

from unitgain.analysis.plots import part_styles
from unitgain.cli.watch import Watch
from unitgain.data.digits import digits
from unitgain.data.images import grid
from unitgain.figures import ACCENT, INK, colors
from unitgain.lock import LOCK, FolderInUseError, hold, holder
from unitgain.report.chart import bar, curve
from unitgain.report.curves import short
from unitgain.report.history import pooled, read_history
from unitgain.report.page import dials, picture
from unitgain.report.run import run_page
from unitgain.report.samples import Drawing, choose_snapshots, grids_of, real_pictures, samples_of
from unitgain.report.terminal import frame
from unitgain.text import evenly, span
from unitgain.train import TrainConfig
from unitgain.train.run import load_config, save_config

LEVELS = {"ln_sigma": [-1.0, 1.0], "error": [0.5, None], "loss": [0.2, None], "images": [4, 0], "u": [-0.7, 0.1]}


def tick(nimg, **changes):
    row = {"nimg": nimg, "loss": 0.5, "lr": 0.01, "images_per_second": 16.0, "seconds": 2.0, "nonfinite_steps": 0}
    return {**row, "peak_share": 0.4, "data_wait_share": 0.1, "memory_bytes": 2**30, "noise_levels": LEVELS, **changes}


@pytest.fixture
def folder(tmp_path, tiny_recipe):
    save_config(TrainConfig(recipe=tiny_recipe, data="tiny", tick=32, checkpoint_every=32), tmp_path)
    return tmp_path


def write(folder, *rows):
    (folder / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def seen(folder, width=80):
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(frame(read_history(folder), width))
    return console.export_text()


def test_a_curve_goes_where_the_values_go():
    lines, high, low = curve([0.0, 1.0, 2.0, 3.0], width=4, height=4, plain=True)
    assert lines == ["   *", "  * ", " *  ", "*   "]
    assert (high, low) == (3.0, 0.0)
    lines, _, _ = curve([0.0, 0.0, 3.0, 3.0], width=4, height=4, plain=True)
    assert [line[2] for line in lines] == ["*", "*", "*", " "]  # a step is a line upwards
    assert curve([1.0] * 9, 3, 1)[1:] == (1.5, 0.5)
    first_large = [1000.0, *torch.linspace(2, 1, 60).tolist()]
    assert curve(first_large, 20, 4)[1] < 10
    assert len(curve(list(range(1000)), 20, 4)[0][0]) == 20


def test_bars_are_as_long_as_their_share():
    assert bar(0.5, 10, plain=True) == "#####"
    assert bar(0.5, 1) == "▌"
    assert bar(7.0, 3) == "███"
    assert bar(0.0, 3) == ""


def test_a_diverged_u_is_shown_all_the_same(folder):
    write(folder, tick(32, noise_levels={**LEVELS, "u": [5000.0, None]}))
    assert "1e+304" in seen(folder)
    assert max(map(len, seen(folder).splitlines())) <= 80
    assert "<svg" in run_page(read_history(folder), [])


def test_pooled_levels_weigh_images():
    one = tick(1)
    two = tick(2, noise_levels={**LEVELS, "error": [0.9, 0.3], "loss": [0.6, 0.3], "images": [12, 2], "u": [0.0, 0.0]})
    found = pooled([one, two, {"nimg": 3, "loss": 1.0}])
    assert found["images"] == [16, 2]
    assert found["error"] == pytest.approx([(4 * 0.5 + 12 * 0.9) / 16, 0.3])
    assert found["u"] == [0.0, 0.0]
    assert pooled([one])["error"] == [0.5, None]
    assert pooled([{"nimg": 3, "loss": 1.0}]) is None


def test_words():
    spans = {
        42: "42 s",
        200: "3 min 20 s",
        18720: "5 h 12 min",
        180_000: "2 d 2 h",
        720: "12 min",
        4e8: "12 years 249 d",
    }
    assert {seconds: span(seconds) for seconds in spans} == spans
    assert [short(n) for n in (640, 12_800, 1_500_000, 2_100_000_000)] == ["640", "12.8k", "1.5M", "2.1G"]
    assert evenly(list(range(11)), 3) == [0, 5, 10]
    assert evenly([1, 2], 3) == [1, 2]
    assert evenly([1, 2], 1) == [2]


def test_the_status_of_a_folder(folder, tmp_path_factory):
    assert read_history(folder).status == "stopped"
    with hold(folder):
        assert read_history(folder).status == "starting"
        assert "no statistics yet; one line comes every 32 images" in seen(folder)
        write(folder, tick(32), tick(64))
        history = read_history(folder)
        assert history.status == "training"
        assert history.rate == 16.0
        assert history.left == pytest.approx(2.0 - history.age)
        busy = dataclasses.replace(history, ticks=[tick(32), tick(64, evaluation_seconds=12.0)])
        assert busy.rate == 4.0  # 64 images in 4 s of training and 12 s of evaluation
        assert "In training: 64 of 96 images, in 4 s of training; " in run_page(history, [])
        text = seen(folder)
        assert "64/96 images" in text and f"process {os.getpid()}" in text
        os.utime(folder / "stats.jsonl", (time.time() - 3600, time.time() - 3600))
        assert "1 h ago" in seen(folder)
        assert read_history(folder).left == 0
    assert read_history(folder).status == "stopped"
    assert "--resume" in seen(folder)
    write(folder, tick(32), {"nimg": 64, "nonfinite": {"a": 3}}, tick(96, loss=None, nonfinite_steps=2), "broken")
    history = read_history(folder)
    assert history.status == "finished"
    assert "2 steps" in seen(folder) and "not finite" in seen(folder)
    with hold(empty := tmp_path_factory.mktemp("new")):
        assert read_history(empty).config is None
        assert "Being set up" in run_page(read_history(empty), [])
        assert "no statistics yet" in seen(empty)
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        read_history(empty)


def test_a_frame_fits_a_small_terminal(folder):
    levels = {key: (values * 6) for key, values in LEVELS.items()}
    write(folder, *(tick(32 * i, noise_levels=levels) for i in range(1, 4)), {"nimg": 96, "metrics": {"fid": 3.25}})
    text = seen(folder)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 24
    assert "3.25" in text and "0.500" in text
    old = {
        key: value for key, value in tick(32).items() if key in ("nimg", "loss", "lr", "images_per_second", "seconds")
    }
    write(folder, old)  # of an earlier version
    assert "waits for data ?" in " ".join(seen(folder).split())


def test_looking_at_a_lock_never_keeps_a_run_from_starting(tmp_path):
    assert holder(tmp_path) is None
    (tmp_path / LOCK).write_text("left by a killed process")
    assert holder(tmp_path) is None
    looking = os.open(tmp_path / LOCK, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.02, lambda: os.close(looking)).start()
    with hold(tmp_path):
        assert f"process {os.getpid()}" in holder(tmp_path)
        with pytest.raises(FolderInUseError):
            hold(tmp_path).__enter__()


def test_a_page_of_a_run_that_has_not_got_far(folder):
    page = run_page(read_history(folder), [], "None yet")
    assert "Stopped at 0 of 96 images" in page
    assert "No statistics yet" in page and "<h2>Settings</h2>" in page and "None yet" in page
    assert "<h2>Activations</h2>" not in page
    write(
        folder, tick(32), {"nimg": 32, "nonfinite": {"<weight>": 3}}, {"nimg": 32, "metrics": {"fid": 3.5, "by": "x"}}
    )
    page = run_page(read_history(folder), [])
    assert page.count("<svg") >= 8
    assert "&lt;weight&gt;" in page
    assert "Lower is better. Last: 3.5, best: 3.5" in page
    assert not re.search(r'(src|[^:]href)="(?!#|data:)', page)  # no other file, no network


def test_pictures_of_the_run_itself_are_shown(folder):
    (folder / "samples").mkdir()
    for i in range(5):
        grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8)).save(folder / "samples" / f"{i:010d}.png")
    (folder / "samples" / "notes.png").write_text("no number")
    (folder / "samples" / f"{2:010d}.png").write_text("cut short")
    assert [drawing.nimg for drawing in grids_of(read_history(folder), 3)] == [0, 4]
    assert [drawing.nimg for drawing in grids_of(read_history(folder), 9)] == [0, 1, 3, 4]


@pytest.mark.parametrize("pairs", [False, True])
def test_pairs_are_spoken_of_where_there_are_some(folder, pairs):
    """Whatever the network is told: runs of earlier versions drew grids without."""
    write(folder, tick(32), {"nimg": 32, "grid": {"images": 4, "pairs": pairs}}, {"nimg": 64, "grid": {"images": 4}})
    (folder / "samples").mkdir()
    for nimg in (32, 64):
        grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8)).save(folder / "samples" / f"{nimg:010d}.png")
    drawings, note = samples_of(read_history(folder), 9)
    assert len(drawings) == 2 and ("real picture" in note) == pairs


def test_wide_pictures_fit_the_page(folder):
    page = run_page(
        read_history(folder), [Drawing(7, Image.new("RGB", (4000, 500))), Drawing(8, Image.new("L", (80, 10)))]
    )
    found = [base64.b64decode(text) for text in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert [Image.open(io.BytesIO(data)).size for data in found] == [(992, 124), (80, 10)]


def test_watch_follows_a_run_until_it_is_finished(folder, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "90")
    looks = []

    def look(where):
        nimg = 32 * (len(looks) + 1)
        looks.append(nimg)
        write(where, *(tick(at) for at in range(32, nimg + 1, 32)))
        return read_history(where)

    monkeypatch.setattr("unitgain.report.history.read_history", look)
    Watch(folder, every=0.01).run()
    assert looks == [32, 64, 96]
    assert all(f"{nimg}/96 images" in shown.getvalue() for nimg in looks)
    assert "finished" in shown.getvalue()


def test_snapshots_are_of_one_length_at_even_times(folder):
    assert choose_snapshots(read_history(folder), 3, 0.3) == []
    (folder / "snapshots").mkdir()
    for name in ("0.050", "0.100", "raw"):
        for i in range(5):
            (folder / "snapshots" / f"{i:010d}-{name}.safetensors").touch()
    history = read_history(folder)
    assert [path.name[:14] for path in choose_snapshots(history, 3)] == [f"{i:010d}-0.1"[:14] for i in (0, 2, 4)]
    assert all("0.050" in path.name for path in choose_snapshots(history, 3, 0.05))
    with pytest.raises(ValueError, match=r"stores no averages of length 0\.300, but 0\.050, 0\.100"):
        choose_snapshots(history, 3, 0.3)


def test_dials_show_one_of_their_figures_without_a_script():
    figures = [picture(Image.new("L", (4, 4)), "<one>"), picture(Image.new("L", (600, 4)), "two")]
    html = dials("time", {"<Time>": ["<1>", "2"]}, {(i,): figure for i, figure in enumerate(figures)}, [1])
    assert "&lt;Time&gt;" in html and "&lt;1&gt;" in html and "&lt;one&gt;" in html and "<1>" not in html
    assert re.findall(r'id="(time0-\d)"( checked)?', html) == [("time0-0", ""), ("time0-1", " checked")]
    assert html.count('class="sharp"') == 1  # small pictures are enlarged without smoothing
    for axes in ({"": list(map(str, range(25)))}, {key: ["0"] for key in "abcd"}):
        places = itertools.product(*map(range, map(len, axes.values())))
        with pytest.raises(ValueError, match="at most 3 of at most 24"):
            dials("time", axes, dict.fromkeys(places, ""), [0] * len(axes))
    with pytest.raises(ValueError, match="one for each choice"):
        dials("time", {"": ["0", "1"]}, {(0,): ""}, [0])


def test_real_pictures_are_those_that_the_run_was_trained_on(folder):
    saved = load_config(folder)
    for changes, there in (
        ({"data": "digits", "data_fingerprint": digits().fingerprint}, True),
        ({"data": "digits", "data_fingerprint": "others"}, False),
        ({"data": str(folder / "gone"), "data_fingerprint": "others"}, False),
        ({"data": str(folder), "data_fingerprint": "others"}, False),  # no data
    ):
        history = dataclasses.replace(read_history(folder), config=dataclasses.replace(saved, **changes))
        assert (real_pictures(history) is not None) == there, changes


def test_curves_can_be_seen_on_white_and_in_the_dark():
    def luminance(color):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    def inverted(color):  # invert(.92) hue-rotate(180deg), as the style of a page has it
        turned = ((-0.574, 1.43, 0.144), (0.426, 0.43, 0.144), (0.426, 1.43, -0.856))
        before = [0.92 * (1 - c) + 0.08 * c for c in color]
        return [min(max(sum(a * b for a, b in zip(row, before, strict=True)), 0), 1) for row in turned]

    styles = part_styles([*(f"Enc {2**k}x{2**k}" for k in range(2, 7)), *"abcdefgh"])
    for color in (*colors(range(7)).values(), *(style["color"] for style in styles.values()), INK, ACCENT):
        shown = to_rgb(color)
        assert contrast(shown, (1, 1, 1)) > 2.9
        assert contrast(inverted(shown), to_rgb("#141414")) > 2.9
