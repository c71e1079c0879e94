"""`unitgain bench` as a user runs it."""

import json
import re
from pathlib import Path

import pytest
import torch

from unitgain.bench.cases import WORDS
from unitgain.cli.main import main, read

pytestmark = pytest.mark.usefixtures("quick_bench")


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ("forward digits --batch 2", ["digits:plain", "digits:fast"]),
        ("forward digits:exact --compare digits:float32", ["digits:exact", "digits:float32"]),
        ("train digits --batch 2", ["digits:float32"]),
        ("sample digits --steps 2 --batch 1", ["digits:fast"]),
    ],
)
def test_everything_as_json(capsys, args, names):
    main(["bench", *args.split(), "--repeats", "1", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["rows"]] == names
    assert report["rows"][0]["ratio"] == 1.0
    assert report["machine"]["torch"] == torch.__version__


def test_tables(capsys):
    threads = torch.get_num_threads()
    options = "--seconds 0.01 --threads 2 --device cpu"
    main(["bench", "forward", "--compare", "digits:plain", "digits", *options.split()])
    out = capsys.readouterr().out
    for text in ("images/s", "x first", "of peak", "error of D", "2 threads", "digits:fast"):
        assert text in out
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ("forward", "name what to measure"),
        ("forward nothing", "no recipe, no snapshot and no network"),
        ("forward --compare digits:plain digits:plain", "named twice"),
        ("forward digits --threads 0", "--threads 0"),
        ("forward digits --repeats 0", "repeats = 0"),
        ("train digits:quick", "unknown mode 'quick'"),
        ("sample digits --guide digits", "without --guidance"),
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
    assert len(commands) >= 5
    for command in commands:
        assert read(["bench", *command.split()]) is not None
    for line in re.findall(r"^from unitgain.*", text, flags=re.MULTILINE):
        exec(line, {})
    assert {mode for mode in WORDS if f"`{mode}`" not in text} == set()
