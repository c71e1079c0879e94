"""Names and metadata from elsewhere on their way out: a terminal, a page, a card, a table, a tracker obey none."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from pictures import folder_of
from rich.progress import Progress
from rich.table import Table

from unitgain import console
from unitgain.card import model_card
from unitgain.checkpoint.snapshot import SnapshotHeader, power_profile, write_snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser
from unitgain.ema import sigma_rel_to_gamma
from unitgain.report.curves import over_training
from unitgain.report.page import page, paragraph, table
from unitgain.serial import to_dict
from unitgain.sweep.cells import Cell, CellResult
from unitgain.sweep.table import write_csv
from unitgain.train import boards

EVIL = "x\x1b[2J\x1b]0;owned\x07\x9b31m\x7f[/x][bold]:boom:\u202e<script>alert(1)</script>"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

PRINTS = re.compile(r"(?<![\w.])print\(|=\s?print\b|rich\.console import .*\bConsole\b|from_markup|TextColumn")


@pytest.fixture
def show(call):
    """What a command prints on both streams, none of which may move a cursor."""

    def run(*argv, code=0):
        output = call(*argv, code=code)
        text = output.out + output.err
        assert not OBEYED.search(text), repr(text)
        return text

    return run


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "800")


@pytest.fixture
def header(tiny_spec):
    return SnapshotHeader(
        network=tiny_spec.replace(label_dim=2),
        sigma_data=0.5,
        nimg=4096,
        profile=power_profile(0.05, sigma_rel_to_gamma(0.05)),
        recipe=EVIL,
        encoder=to_dict(PixelEncoder()),
        classes=(EVIL, "=1+1\nerror: all is lost"),
        data=f"{EVIL}\n---\nlicense: mit\n---\n",
        license=f"{EVIL}: {{",
    )


@pytest.fixture
def snapshot(tmp_path, header):
    path = tmp_path / "snapshots" / f"0000004096-0.050{EVIL[:20]}.safetensors"
    path.parent.mkdir()
    write_snapshot(path, header, Denoiser(header.network).state_dict())
    return path


def test_metadata_of_a_snapshot_is_shown_and_not_obeyed(show, snapshot):
    said = show("inspect", snapshot)
    assert "[/x][bold]:boom:" in said and r"\x1b[2J" in said and r"\x9b31m" in said and r"\u202e" in said
    assert not any(line.startswith("error") for line in said.splitlines()), repr(said)
    assert json.loads(show("inspect", snapshot, "--json"))["recipe"] == EVIL
    assert r"0.050x\x1b[2J" in show("ema", "list", snapshot.parent)
    assert json.loads(show("ema", "list", snapshot.parent, "--json"))[0]["nimg"] == 4096


def test_errors_show_what_was_given(show, tmp_path):
    assert "[/x][bold]" in show("inspect", tmp_path / EVIL.replace("/", "|"), code=2).replace("|", "/")
    assert "[/x][bold]" in show("train", f"digits{EVIL}", "--out", tmp_path / "run", code=2)
    broken = tmp_path / f"{EVIL[:12]}[|x].safetensors"
    broken.write_bytes(b"nothing")
    assert r"x\x1b[2J\x1b]0;own[|x]" in show("inspect", broken, code=1)


def test_errors_end(show, tmp_path):
    assert len(show("train", "digits", "--out", tmp_path / "run", "--data", "x" * 10**6, code=1)) < 5000


def test_classes_and_files_of_data(show, tmp_path):
    evil = EVIL.replace("/", "|")
    pictures = folder_of(tmp_path / "pictures", classes=(evil, "[|dog]"), width=8, height=8)
    (pictures / evil / f"{evil[:30]}.png").write_bytes(b"no picture")
    data = tmp_path / "data"
    show("data", "prepare", pictures, tmp_path / "none", "--resolution", "8", "--workers", "1", code=2)
    show("data", "prepare", pictures, data, "--resolution", "8", "--workers", "1", "--on-error", "skip")
    assert r"x\x1b[2J\x1b]0;owned\x07\x9b31m\x7f[|x][bold]" in show("data", "check", data, "--workers", "1")
    show("data", "check", data, "--workers", "1", "--json")
    arrow = next(data.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-100])
    assert "has" in show("data", "check", data, "--workers", "1", code=1)


def test_a_run_on_data_with_such_names(show, tmp_path):
    evil = EVIL.replace("/", "|")
    pictures = folder_of(tmp_path / "pictures", classes=(evil, "b"), width=8, height=8)
    data, run = tmp_path / f"data{evil[:30]}", tmp_path / f"run{evil[:30]}"
    show("data", "prepare", pictures, data, "--resolution", "8", "--channels", "1", "--workers", "1")
    size = ["--batch", "8", "--duration", "16", "--snapshot-every", "8", "--device", "cpu", "--no-tensorboard"]
    show("train", "digits", "--data", data, "--out", run, *size)
    row = {"nimg": 16, "metrics": {EVIL: 1.5, "a$b$\\foo": 2.0}}
    with open(run / "stats.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    assert r"run" + r"x\x1b[2J" in show("watch", run)
    assert r"\x1b[2J" in show("report", run, "--no-samples")
    html = (run / "report.html").read_text()
    assert not OBEYED.search(html) and "<script>" not in html and "a$b$" in html
    assert r"\x1b[2J" in show("inspect", run)


def test_progress_bars_and_tables_take_no_markup(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    with console.bar(EVIL, "[/unit]") as progress:
        progress(1, 2)
    styled = console.Console(stderr=True)
    grid = Table(EVIL, title=EVIL)
    grid.add_row(EVIL)
    styled.print(grid, console.label("error:", EVIL, "bold red"))
    with Progress(console.plain("{task.description}"), console=styled) as bars:
        bars.add_task(EVIL)
    text = screen.getvalue()
    assert "[/x]" in text and "[/unit]" in text and "\x1b[1;31merror:" in text  # our own styles work
    for sequence in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\u202e"):
        assert sequence not in text


def test_what_is_printed_survives_a_narrow_encoding(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw := io.BytesIO(), encoding="ascii"))
    console.say("naïve \udcff")
    assert raw.getvalue() == b"na\\xefve \\udcff\n"


def test_pages_show_names_as_text():
    html = page(EVIL, EVIL, [(EVIL, paragraph(EVIL) + table((EVIL,), [(EVIL,)]))])
    assert "<script>" not in html and not OBEYED.search(html)
    svg = over_training([1, 2], [1.0, 2.0], EVIL + "$\\evil$")
    assert "<script>" not in svg and not OBEYED.search(svg)


def test_a_model_card_keeps_its_front_matter(header):
    card = model_card(header, 1000, "float16", metrics={f"{EVIL}\n---\n": 1.0})
    _, front, text = card.split("---\n", 2)
    known = yaml.safe_load(front)
    assert known["license"] == "other" and "x" in known["license_name"]
    assert not OBEYED.search(card)
    assert "<script>" not in text and "\n---\n" not in text and "license: mit" not in text.splitlines()
    assert r"\[/x\]\[bold\]" in text


def test_tables_hold_no_formulas(tmp_path):
    cell = Cell(length=0.1, pattern='=HYPERLINK("http://evil")')
    rows = []
    write_csv(tmp_path / "sweep.csv", [CellResult(cell=cell, metric="@SUM(1)\x1b[2J", values=(1.0,), images=4), *rows])
    with open(tmp_path / "sweep.csv", newline="") as file:
        _, row = csv.reader(file)
    assert row[0] == r"'@SUM(1)\x1b[2J" and row[5].startswith("'=HYPERLINK")


def test_trackers_get_printable_names(tmp_path, monkeypatch):
    assert boards.scalars({"metrics": {"a\x1b[2J": 1.0}}) == {r"metrics/a\x1b[2J": 1.0}
    seen = {}

    class Fake:
        errors = type("errors", (), {"Error": KeyError})

        @staticmethod
        def Settings(**_):
            return None

        @staticmethod
        def init(**given):
            seen.update(given)

    monkeypatch.setattr(boards, "require", lambda name, extra: Fake)
    boards.WandB(tmp_path, "project", {"recipe": {"name": EVIL}, "classes": [EVIL]})
    assert not OBEYED.search(json.dumps(seen["config"], ensure_ascii=False))
    assert seen["config"]["recipe"]["name"].startswith(r"x\x1b[2J")


def test_nothing_prints_past_the_console():
    """`print` and rich's own console are called in one file; others would have to think of all this again."""
    root = Path(console.__file__).parent
    allowed = {"console.py", "train/estimate.py"}  # the latter answers the process that started it
    used = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(
            r"(?<![\w.])print\(|rich\.console import .*\bConsole\b|Console\(file|from_markup|TextColumn",
            path.read_text(),
        )
    }
    assert used == allowed
