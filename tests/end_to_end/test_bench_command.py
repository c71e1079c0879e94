"""`unitgain bench` as a user runs it."""

import json
import re
from pathlib import Path

import pytest
import torch
import tyro

from unitgain.bench.cases import MODES
from unitgain.bench.steps import STEPS
from unitgain.cli.bench import Bench
from unitgain.cli.main import CONFIG, main

pytestmark = pytest.mark.usefixtures("quick_bench")


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ("forward digits --batch 2", ["digits:plain", "digits:fast"]),
        ("forward digits:exact --compare digits:float32", ["digits:exact", "digits:float32"]),
        ("train digits --batch 2", ["digits:plain", "digits:float32"]),
        ("sample digits --steps 2 --batch 1", ["digits:fast", "digits:fast (evaluations alone)"]),
        ("posthoc --snapshots 4 --parameters 1e5", ["read+convert", "read+convert in chunks", "combine"]),
        ("data --rows 8 --batch 4 --batches 1 --workers 0", ["NumPy memory map", "loader, 0 threads"]),
    ],
)
def test_everything_as_json(capsys, args, names):
    main(["bench", *args.split(), "--repeats", "1", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["rows"]] == names
    assert report["rows"][0]["ratio"] == 1.0
    assert report["machine"]["torch"] == torch.__version__


def test_tables(capsys, tmp_path):
    trace = tmp_path / "trace.json"
    threads = torch.get_num_threads()
    options = f"--seconds 0.01 --roofline --profile {trace} --threads 2 --device cpu"
    main(["bench", "forward", "--compare", "digits:plain", "digits", *options.split()])
    out = capsys.readouterr().out
    for text in (
        "images/s",
        "x first",
        "of peak",
        "error of D",
        "Roofline",
        "floor/took",
        "Slowest",
        "2 threads",
    ):
        assert text in out
    assert "digits:fast" in out
    assert json.loads(trace.read_text())["traceEvents"]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ("forward", "name what to measure"),
        ("forward nothing", "no recipe, no snapshot and no network"),
        ("forward --compare digits:plain digits:plain", "named twice"),
        ("forward digits --threads 0", "--threads 0"),
        ("forward digits --repeats 0", "repeats = 0"),
        ("forward digits --profile trace.txt", "must end in .json"),
        ("forward digits --reference .", "no checkout of the official EDM2 code"),
        ("train digits:quick", "unknown mode 'quick'"),
        ("sample digits --guide digits", "without --guidance"),
        ("data nowhere", "nowhere"),
    ],
)
def test_wrong_use(capsys, args, text):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *args.split()])
    assert stop.value.code == 2
    assert text in " ".join(capsys.readouterr().err.split())


def test_docs_name_commands_and_modules_that_there_are():
    text = (Path(__file__).parents[2] / "docs" / "speed.md").read_text(encoding="utf-8")
    commands = re.findall(r"^unitgain bench ([^#\n]*)", text, flags=re.MULTILINE)
    assert len(commands) == 9
    for command in commands:
        tyro.cli(Bench, args=command.split(), config=CONFIG)
    for line in re.findall(r"^from unitgain.*", text, flags=re.MULTILINE):
        exec(line, {})
    assert {mode for mode in (*MODES, *STEPS) if f"`{mode}`" not in text} == set()
