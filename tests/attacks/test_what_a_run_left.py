"""Small files that a run from someone else holds beside its checkpoints: none runs, waits, leads out or goes unsaid."""

import json
import os
import types

import pytest
import torch
from hostile import HUGE
from pictures import encoded, picture
from torch import nn

from unitgain.cli.main import main
from unitgain.posthoc import SnapshotStore, reconstruct
from unitgain.train import TrainConfig, boards
from unitgain.train.run import save_config


def replace(path, kind, precious):
    """Something that is no file of ours, in its place."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(precious)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


IDENTITIES = ["", "[]", "null", "[" * 10**5, '{"id": "a"}', '{"id": 1, "project": "p"}', "\x00"]
IDENTITIES += [
    json.dumps({"id": "a", "project": name}) for name in ("\x1b[2J", "a/b", "", None, [], "x" * 300, "\ud800")
]


@pytest.mark.parametrize("content", [*IDENTITIES, "pipe", "device", "folder"])
def test_where_a_run_is_tracked(tmp_path, content, monkeypatch, capsys):
    started = []
    wandb = types.SimpleNamespace(
        errors=types.SimpleNamespace(Error=OSError), Settings=dict, init=lambda **given: started.append(given)
    )
    monkeypatch.setattr(boards, "require", lambda name, extra: wandb)
    path = tmp_path / "wandb.json"
    if content in ("pipe", "device", "folder"):
        replace(path, content, None)
    else:
        path.write_text(content)
    assert boards.boards(tmp_path, 0, {}, tensorboard=False, wandb=None) == []
    assert "wandb.json is damaged: delete it" in capsys.readouterr().err and not started
    with pytest.raises(ValueError, match=r"wandb.json is damaged: delete it"):
        boards.boards(tmp_path, 0, {}, tensorboard=False, wandb="mine")


def test_pictures_of_samples(tmp_path, tiny_recipe, monkeypatch):
    """Of seven files one is a picture of this run."""
    save_config(TrainConfig(recipe=tiny_recipe, data="tiny", tick=32, checkpoint_every=32), tmp_path)
    samples = tmp_path / "samples"
    samples.mkdir()
    precious = tmp_path / "precious.png"
    precious.write_bytes(encoded(picture(0, 32, 32)))
    for number, content in enumerate((encoded(picture(1, 8, 8)), HUGE, b"", b"<svg/>")):
        (samples / f"{number:010d}.png").write_bytes(content)
    for number, kind in enumerate(("pipe", "link", "device", "folder"), 4):
        replace(samples / f"{number:010d}.png", kind, precious)
    (samples / "\u0663.png").write_bytes(b"")  # a digit all the same
    main(["report", str(tmp_path), "--times", "20"])
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 1


@pytest.fixture
def half(tmp_path):
    """A reconstruction that was interrupted, and what it would have made."""
    module = nn.Sequential(nn.Linear(40, 50), nn.Linear(50, 3))
    store = SnapshotStore(tmp_path / "run", module, every=10, dtype="float32")
    for step in range(60):
        with torch.no_grad():
            module[0].weight.add_(0.1)
        store.update(step + 1, 1)
    (whole,) = reconstruct(tmp_path / "run", [0.12], tmp_path / "whole")

    def stop(done, total):
        if done > total / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(tmp_path / "run", [0.12], tmp_path / "out", threads=1, on_progress=stop)
    return tmp_path / "out", whole.path


@pytest.mark.parametrize(
    "change",
    [
        "pipe",
        "device",
        "",
        "[" * 10**5,
        "[]",
        *({"key": value} for value in (None, [], "x" * 64)),
        *({"done": value} for value in (None, 7, [[]], ["x"], {"0.weight": 1}, ["0.weight", "0.weight"])),
        *({"sums": value} for value in (None, {}, [], [[]], [{}] * 3, [{"0.weight": 1}], [{"0.weight": "-1"}])),
        {"sums": [{"0.weight": "f" * 40}]},
    ],
)
def test_the_journal_of_a_reconstruction(half, change):
    out, whole = half
    journal = out / ".reconstruct.json"
    if change in ("pipe", "device"):
        replace(journal, change, None)
    elif isinstance(change, str):
        journal.write_text(change)
    else:
        journal.write_text(json.dumps(json.loads(journal.read_text()) | change))
    (made,) = reconstruct(out.parent / "run", [0.12], out)
    assert made.path.read_bytes() == whole.read_bytes()
