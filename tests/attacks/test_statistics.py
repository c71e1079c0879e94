"""The statistics of a run from someone else: what is no line of them is left out, and nothing is waited for."""

import json
import os

import pytest

from unitgain.checkpoint.writer import Writer
from unitgain.cli.main import main
from unitgain.lock import hold, holder
from unitgain.sweep.table import Table
from unitgain.train import TrainConfig
from unitgain.train.log import StatsLog
from unitgain.train.rows import read_stats
from unitgain.train.run import save_config

LEVELS = {"ln_sigma": [0.0, 1.0], "images": [1, 2], "error": [None, 1.0], "loss": [1.0, 2.0], "u": [0.0, None]}
TICK = {"nimg": 64, "loss": 1.0, "lr": 0.1, "images_per_second": 1.0, "seconds": 1.0, "noise_levels": LEVELS}
FORGED = [
    *({**TICK, name: value} for name in TICK if name != "loss" for value in ("x", None, [], 1e999, 10**400, True)),
    {**TICK, "noise_levels": {name: [] for name in LEVELS}},
    *({**TICK, "noise_levels": {**LEVELS, name: value}} for name in LEVELS for value in ("x", [], ["x"] * 2, [1])),
    {**TICK, "loss": "x"},
    {"nimg": 64, "loss": 1.0},
    {"nimg": -1},
    {"nimg": 64, "metrics": 7},
    {"nimg": 64, "metrics": {"fid": [1]}},
    {"nimg": 64, "nonfinite": {"a": "x"}},
    {"nimg": 64, "magnitudes": {"Enc 8x8": 7}},
    {"nimg": 64, "magnitudes": {"Enc 8x8": {"b": None}}},
    *(
        {"nimg": 64, "magnitudes": {name: {"weight_max": 1.0}}}
        for name in ("a", "Enc", "Enc axb", "Enc 8x", "Dec 8x8x")
    ),
    {"nimg": 64, "parts": []},
    {"nimg": 64, "grid": "pairs"},
]


def test_lines_that_are_none_of_ours(tmp_path):
    lines = ["[" * 10**5, "9" * 5000, "7", "\x00", *map(json.dumps, FORGED), json.dumps(TICK)]
    (tmp_path / "stats.jsonl").write_text("\n".join(lines) + "\n")
    assert read_stats(tmp_path) == [TICK]
    StatsLog(tmp_path, 64)
    assert (tmp_path / "stats.jsonl").read_text() == json.dumps(TICK) + "\n"


# Of the right types, and nothing that a run has ever written.
STRANGE = [
    {**TICK, "loss": 1e99},
    {**TICK, "loss": 5e-324, "seconds": 0, "images_per_second": -1e99, "evaluation_seconds": -1, "peak_share": 1e99},
    {**TICK, "loss": None, "lr": -1e99, "seconds": 1e99, "nonfinite_steps": 1e99, "memory_bytes": -1.5},
    {**TICK, "noise_levels": {"ln_sigma": [230.0], "images": [1e99], "error": [-1e99], "loss": [None], "u": [1e99]}},
    {**TICK, "noise_levels": {**LEVELS, "images": [0, 0]}, "parts": {"Enc": {}, "Dec x": {"weight": 0}, "\ud800": {}}},
    {"nimg": 2**53 - 1, "metrics": {"$\\frac$": 1e99, "[/x]\x1b[2J": -1, "": None, "text": "\x1b[2J"}},
    {"nimg": 0, "magnitudes": {"Enc 999999999x1": {"weight_max": -1e99}, "Dec 0x0": {}}},
    {"nimg": 0, "nonfinite": {"\x1b[2J": 1e99, "": -1}},
    {"nimg": 0, "grid": {"pairs": []}},
]


@pytest.fixture
def run(tmp_path, tiny_recipe):
    save_config(TrainConfig(recipe=tiny_recipe, data="tiny", tick=32, checkpoint_every=32), tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["watch", "report", "inspect", "magnitudes"])
def test_commands_that_show_a_run_show_any_statistics(run, command):
    rows = [[row] for row in STRANGE] if command == "watch" else []
    last = {"nimg": 64, "magnitudes": {"Enc 8x8": {}}}
    for these in (*rows, [*FORGED, *STRANGE, last], [last, *reversed(STRANGE)]):
        (run / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in these))
        main([command, str(run), *(["--no-samples"] if command == "report" else [])])


READS = {"stats.jsonl": read_stats, ".lock": holder, "cells-0.jsonl": lambda folder: Table(folder).rows()}


@pytest.mark.parametrize("name", READS)
def test_pipes_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match="not an ordinary file"):
        READS[name](tmp_path)


@pytest.mark.parametrize("name", READS)
def test_nothing_is_read_through_a_link(tmp_path, name):
    (tmp_path / "secret").write_text("{}")
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="leads out of"):
        READS[name](run)
    (run / name).unlink()
    (run / name).symlink_to(name)
    with pytest.raises(OSError, match="symbolic links"):
        READS[name](run)


@pytest.mark.parametrize("kind", ["link", "hard link"])
@pytest.mark.parametrize("name", [".lock", "stats.jsonl", "cells-0.jsonl", "partial"])
def test_nothing_is_written_through_a_link(tmp_path, name, kind):
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / name
    path.symlink_to(precious) if kind == "link" else path.hardlink_to(precious)

    def write():
        match name:
            case ".lock":
                with hold(path.parent):
                    pass
            case "stats.jsonl":
                StatsLog.write(log, TICK)
            case "cells-0.jsonl":
                Table(path.parent).add([{"key": "a", "value": 1.0}])
            case _:
                Writer(path, {}, {})

    log = StatsLog(tmp_path, 64)
    log.path = path
    with pytest.raises(OSError, match=r"is a link|of one name"):
        write()
    assert precious.read_bytes() == b"precious"


def test_values_of_a_table_are_numbers(tmp_path):
    rows = [{"key": "a", "value": value} for value in ("x", None, True, 1e999)] + [{"key": [1], "value": 1.0}, {}]
    (tmp_path / "cells-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, [], 7]))
    assert Table(tmp_path).rows() == {}
