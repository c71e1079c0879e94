"""Tutorials run from their first line to their last, and are the notebooks that the site has."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from blocks import ROOT, blocks_of, run_page
from official_files import config_of, write_official

import notebooks
import unitgain
from unitgain.data.digits import digits
from unitgain.posthoc.load import load_into

FOLDER = ROOT / "docs" / "tutorials"
NAMES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")


pytestmark = pytest.mark.usefixtures("few_steps", "known_speed")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_first_model(call):
    shorter = {"duration=38_400": "duration=640", "range(100)": "range(32)"}
    names = run_page("docs/tutorials/first-model.md", call, shorter=shorter)
    assert [picture.size for picture in names["pictures"]] == [(8, 8)] * 16
    assert names["pixels"].shape == (32, 1, 8, 8)
    assert len(names["shown"]) == 4 and len(names["between"]) == 8 and Path("preview.png").exists()
    assert len({picture.tobytes() for picture in names["variations"]}) == 8
    for picture in names["completed"]:
        assert np.array_equal(np.asarray(picture)[:4], digits().images[8, 0, :4].numpy())


def test_your_own_pictures(call, call_train):
    """And a run from Python is the run of the command, to the last byte."""
    shorter = {"range(600)": "range(120)", "--resolution 32": "--resolution 8", "resolution=32": "resolution=8"}
    shorter |= {"--hours 0.75": "--hours 0.001", "hours=0.25": "hours=0.001", "--per-class 8": "--per-class 2"}
    shorter |= {"--hours 0.15": "--hours 0.002"}
    names = run_page("docs/tutorials/own-pictures.md", call, shorter=shorter)
    assert len(names["data"].classes) == 3 and len(names["pictures"]) == 8
    assert len(list(Path("drawn").rglob("*.png"))) == 6 + 1 and Path("runs/mine/report.html").exists()
    guides = [
        json.loads(Path(folder, "manifest.json").read_text())["guide"] for folder in ("drawn", "guided", "autoguided")
    ]
    assert guides[0] is None and guides[1] and guides[2] and guides[1] != guides[2]

    call_train("--config", "runs/again/config.json", "--out", "runs/command", "--device", "cpu")
    ours, theirs = (json.loads(Path(f"runs/{run}/config.json").read_text()) for run in ("again", "command"))
    assert ours == theirs and ours["data_fingerprint"] and len(ours["classes"]) == 3
    for ours in Path("runs/again/snapshots").iterdir():
        assert ours.read_bytes() == (Path("runs/command/snapshots") / ours.name).read_bytes()


def test_choosing_an_ema_length(call):
    shorter = {"--duration 38400": "--duration 1280", "--snapshot-every 1280": "--snapshot-every 64"}
    shorter |= {"0-63": "0-7", "0-23": "0-3", "--images 448": "--images 70", "range(448)": "range(70)"}
    shorter |= {old: "0.05:0.20:0.15" for old in ("0.05:0.20:0.05", "0.02:0.20:0.03", "0.02:0.20:0.02")}
    shorter |= {"--evaluations 8": "--evaluations 2"}
    run_page("docs/tutorials/ema-length.md", call, shorter=shorter)
    assert Path("short/grid.png").read_bytes() != Path("long/grid.png").read_bytes()
    assert list(Path("runs/digits/sweep").glob("*.csv")) and "data:image/png" in Path("explore.html").read_text()
    run_page("docs/explorer.md", call)  # it speaks of the same run


@pytest.mark.filterwarnings("ignore")  # of Lightning, about its own
def test_post_hoc_ema_in_your_own_loop(call):
    shorter = {"2001": "301", "max_steps=2000": "max_steps=300"}
    names = run_page("docs/tutorials/own-loop.md", call, shorter=shorter)
    assert len(names["scores"]) == 5 and min(names["scores"].values()) > 0.5
    assert names["again"].t == names["store"].t == 300
    for model, folder in (("network", "accelerate"), ("classifier", "lightning")):
        before = [parameter.clone() for parameter in names[model].parameters()]
        load_into(names[model], next(Path(f"averages-{folder}").glob("*.safetensors")))
        assert all(map(torch.equal, before, names[model].parameters()))


def test_guidance_in_the_plane(call):
    shorter = {"steps=6000": "steps=150", "steps=600": "steps=40", "torch.randn(2000": "torch.randn(200"}
    names = run_page("docs/tutorials/plane.md", call, shorter=shorter)
    before = names["PlaneDenoiser"](16)
    x, sigma = torch.randn(8, 2), torch.rand(8) + 0.1
    torch.testing.assert_close(before(x, sigma), x * (0.25 / (0.25 + sigma**2))[:, None])  # its gain is 0
    points, known = names["points"], names["nn"].functional.one_hot
    label = torch.arange(200) % 2
    clean = points(label)
    with torch.no_grad():
        errors = [
            ((network(clean + 0.3 * torch.randn(200, 2), 0.3, known(label, 2).float()) - clean) ** 2).mean()
            for network in (names["main"], before)
        ]
    assert errors[0] < 0.8 * errors[1]
    assert {"plane-paths.png", "plane-guidance.png"} <= {path.name for path in Path().iterdir()}


def test_official_checkpoints(call, tiny_data):
    from unitgain.data.images import to_image

    config = config_of()
    for seed, name in enumerate(("edm2-img64-s-1073741-0.075", "edm2-img64-xs-0134217-0.110")):
        write_official(Path(f"{name}.pkl"), config, seed=seed)
    raw = Path("raw-snapshots/edm2-img64-s")
    raw.mkdir(parents=True)
    for k in range(1, 9):
        for length in (0.05, 0.1):
            write_official(raw / f"network-snapshot-{k * 8388:07d}-{length:.3f}.pkl", config, seed=k)
    for number, pixels in enumerate(tiny_data.images):
        folder = Path("pictures", "abc"[int(tiny_data.labels[number])])
        folder.mkdir(parents=True, exist_ok=True)
        to_image(pixels).save(folder / f"{number}.png")
    call("data", "prepare", "pictures", "data", "--channels", "3")
    shorter = {"--duration 2000000": "--duration 32", "--batch 256": "--batch 16"}
    names = run_page("docs/tutorials/official.md", call, shorter=shorter)
    assert len(names["pictures"]) == 4
    assert len(list(Path("runs/s/ema").glob("*.safetensors"))) == 2
    assert unitgain.load(sorted(Path("runs/tuned/snapshots").iterdir())[0]).spec.label_dim == 3


def test_volumes_and_a_condition(call):
    shorter = {"range(300)": "range(40)", "[np.arange(12.0)]": "[np.arange(6.0)]", "uniform(2, 5)": "uniform(1, 2)"}
    shorter |= {"uniform(5, 6,": "uniform(2, 3,", "--hours 0.5": "--hours 0.0005", "hours=0.5": "hours=0.0005"}
    shorter |= {"--per-class 4": "--per-class 1", "linspace(2, 5, 8)": "linspace(1, 2, 2)", "range(8)": "range(2)"}
    names = run_page("docs/tutorials/volumes.md", call, shorter=shorter)
    (told,) = names["planned"].config.recipe.network.conditions
    assert told.name == "radius" and 0 < told.dropout < 1
    assert names["drawn"].shape == (2, 1, 6, 6, 6) and not torch.equal(names["drawn"], names["anything"])
    assert len(list(Path("drawn").rglob("*.npy"))) == 2


def test_many_gpus(call):
    shorter = {"--duration 12800": "--duration 128", "--duration 19200": "--duration 192"}
    shorter |= {"--duration 6400": "--duration 64", "duration=6_400": "duration=64", "0-63": "0-3"}
    run_page("docs/tutorials/many-gpus.md", call, shorter=shorter)
    assert Path("runs/own/snapshots/0000000064-raw.safetensors").exists()
    assert Path("runs/two/snapshots/0000000192-raw.safetensors").exists()


def test_each_tutorial_is_a_notebook(tmp_path):
    written = notebooks.write(FOLDER, tmp_path)
    assert [path.stem for path in written] == NAMES
    for path in written:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        blocks = blocks_of(f"docs/tutorials/{path.stem}.md")
        assert [text.partition("\n")[2] if text.startswith("%%") else text for text in code] == [
            block.code.rstrip("\n") for block in blocks if block.language in ("python", "sh")
        ]
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        assert "```" not in text and ".md" not in text  # no code in the text, and no links that lead nowhere
    again = tmp_path / "again"
    assert [path.read_bytes() for path in notebooks.write(FOLDER, again)] == [path.read_bytes() for path in written]


@pytest.mark.parametrize("name", NAMES)
def test_a_test_here_runs_it(name):
    assert f'run_page("docs/tutorials/{name}.md"' in Path(__file__).read_text(encoding="utf-8")
