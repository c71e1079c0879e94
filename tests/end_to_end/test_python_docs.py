"""The page docs/python.md runs from its first line to its last; and a run from Python is the run of the command."""

import json
import re
from pathlib import Path

import numpy as np

from unitgain.data.digits import digits

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_page_goes_from_pictures_to_pictures(tmp_path, monkeypatch, call_train):
    monkeypatch.chdir(tmp_path)
    shorter = {
        "digits().images, digits().labels": "digits().images[:200], digits().labels[:200]",
        "hours=0.1": "hours=0.001",
    }
    shorter["range(100)"] = "range(64)"
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL):
        for text, other in shorter.items():
            block = block.replace(text, other)
        exec(compile(block, str(PAGE), "exec"), names)

    assert [picture.size for picture in names["pictures"]] == [(8, 8)] * 16
    assert names["pixels"].shape == (64, 1, 8, 8)
    assert len(names["shown"]) == 4 and len(names["between"]) == 8 and Path("preview.png").exists()
    assert len({picture.tobytes() for picture in names["variations"]}) == 8
    for picture in names["completed"]:
        assert np.array_equal(np.asarray(picture)[:4], digits().images[8, 0, :4].numpy())

    call_train("--config", "runs/small/config.json", "--out", "runs/command", "--device", "cpu")
    ours, theirs = (json.loads(Path(f"runs/{run}/config.json").read_text()) for run in ("small", "command"))
    assert ours == theirs
    assert ours["data_fingerprint"] and len(ours["classes"]) == 10
    for ours in Path("runs/small/snapshots").iterdir():
        assert ours.read_bytes() == (Path("runs/command/snapshots") / ours.name).read_bytes()
