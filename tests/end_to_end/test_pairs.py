"""From a table of pairs to a network that is told, and samples for rows of the data."""

import json

import pytest
from pictures import encoded, picture

from unitgain.train.run import load_config

pytestmark = pytest.mark.usefixtures("known_speed")
QUICK = ["--width", "8", "--batch", "8", "--duration", "16", "--hours", "0.01", "--device", "cpu", "--no-tensorboard"]


def test_pairs_all_the_way(call, tmp_path):
    (tmp_path / "images").mkdir()
    for row in range(6):
        (tmp_path / "images" / f"{row}.png").write_bytes(encoded(picture(row, 8, 8)))
        (tmp_path / "images" / f"{row}-small.png").write_bytes(encoded(picture(row, 4, 4)))
    lines = [
        {"image": f"images/{row}.png", "label": row % 2, "condition": f"images/{row}-small.png", "age": row}
        | {"tokens": [[1.0, row]] * (row % 3)}
        for row in range(6)
    ]
    table, data, run = tmp_path / "pairs.jsonl", tmp_path / "data", tmp_path / "run"
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = call("data", "prepare", table, data, "--conditions", "age", "condition", "tokens").out
    assert "conditions: age (a number), condition [3, 4, 4], tokens [any, 2]" in said
    assert "condition tokens [any, 2]: 4 rows have it" in call("data", "check", data).out
    call("train", "--data", data, "--out", run, *QUICK)
    told = {one.name: one.kind for one in load_config(run).recipe.network.conditions}
    assert told == {"age": "scalar", "condition": "image", "tokens": "tokens"}
    snapshot = run / "snapshots" / "0000000016-0.050.safetensors"
    draw = ["--steps", "2", "--seeds", "0-1", "--device", "cpu", "--out", tmp_path / "out"]
    call("sample", snapshot, *draw, "--conditions", f"{data}[2,5]")
    assert (tmp_path / "out" / "000000" / "000001.png").is_file()
