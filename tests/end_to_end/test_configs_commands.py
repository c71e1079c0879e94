"""`unitgain inspect` and `unitgain magnitudes` as a user runs them."""

import json

import pytest
import torch
from safetensors.torch import load_file

from unitgain.analysis.plots import network_blocks
from unitgain.cli.main import main
from unitgain.data.digits import digits
from unitgain.recipes import RECIPES, recipe
from unitgain.report.facts import describe, paper_rows
from unitgain.train import TrainConfig, train


def run_of(tmp_path, tiny_recipe, tiny_data, name="run", **changes):
    config = TrainConfig(recipe=tiny_recipe, data="tiny", tick=48, checkpoint_every=96, **changes)
    train(config, tmp_path / name, tiny_data, quiet=True)
    return tmp_path / name


def assert_same_tensors(path, other):
    tensors, others = load_file(path), load_file(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


def test_inspect_json_has_the_cost(capsys):
    main(["inspect", "edm2plus-img64-s", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "edm2plus-img64-s"
    assert facts["parameters"] == 153_971_941 + 128  # and those of u(sigma)
    assert facts["gflops"] == pytest.approx(50.41, rel=0.005)
    assert facts["sampling_teraflops"] == pytest.approx(63 * facts["gflops"] / 1000)
    assert facts["training_zettaflops"] == pytest.approx(3 * facts["gflops"] * 2**31 / 1e12)
    assert sum(facts["by_op"].values()) == pytest.approx(facts["gflops"])
    assert sum(facts["by_part"].values()) == pytest.approx(facts["gflops"])
    assert facts["activation_bytes"] > 100 * 2**20


def test_inspect_prints_cost_and_score(capsys):
    main(["inspect", "edm2-img64-xl"])
    out = capsys.readouterr().out
    assert "GFLOPs" in out
    assert "unitgain train edm2-img64-xl" in out
    assert "1.33 at EMA length 0.04" in " ".join(out.split())


def test_every_recipe_is_found(monkeypatch):
    for name in RECIPES:
        monkeypatch.setattr("unitgain.report.facts.recipe_facts", lambda what: {"name": what.name})
        assert describe(name) == {"kind": "recipe", "name": name}


def test_configs_have_a_row_per_config(capsys):
    names = [row["name"] for row in paper_rows("edm2")]
    assert names[:7] == [f"edm2-img512-config-{config}" for config in "abcdefg"]
    assert len(names) == len(set(names)) == 7 + 7 + 5
    main(["inspect", "--configs", "edm2plus"])
    lines = capsys.readouterr().out.splitlines()
    for config in (
        "a",
        "b",
        "c",
        "d",
        "d-e4",
        "e",
        "e-k7",
        "f",
        "g",
        "f-bottleneck",
        "g-bottleneck",
        "g-bottleneck-ms",
    ):
        assert sum(line.split()[0] == f"edm2plus-img64-config-{config}" for line in lines if line.strip()) == 1
    main(["inspect", "--configs", "edm2plus", "--json"])
    assert len(json.loads(capsys.readouterr().out)) == 13 + 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect"], "name one thing"),
        (["inspect", "digits", "--configs", "edm2"], "name one thing"),
        (["inspect", "--configs", "edm2", "--plot", "x.jpeg"], "ends in one of .svg, .png, .pdf"),
        (["inspect", "digits", "--measured", "x.json"], "beside the scores of a paper"),
        (["inspect", "digits", "--plot", "x.jpeg"], "ends in one of .svg, .png, .pdf"),
        (["magnitudes"], "name the folder of a run"),
        (["magnitudes", "nowhere", "--samples", "8", "--P-mean", "0"], "--samples, --P-mean: for snapshots"),
        (["magnitudes", "nowhere", "--plot", "m.svg", "--json"], "--json: for what is printed"),
        (["compare", "nowhere", "--plot", "m.svg", "--json"], "--json: for what is printed"),
        (["inspect", "digits", "--plot", "m.svg", "--json"], "--json: for what is printed"),
        (["fetch", "--offline", "--mirror", "https://example.org"], "--offline, --mirror: name what to fetch"),
        (["magnitudes", "nowhere"], "not the folder of a run"),
    ],
)
def test_wrong_use_exits_with_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["digits", "edm2-img512-config-a", "edm2plus-img64-config-b"])
def test_inspect_draws_the_network(tmp_path, name):
    main(["inspect", name, "--plot", str(tmp_path / "network.svg")])
    assert (tmp_path / "network.svg").read_text().count("<path") > 20
    network = recipe(name).network
    levels, blocks = len(network.widths), network.num_blocks
    drawn = network_blocks(network)
    assert len(drawn) == levels * (blocks + 1) + levels * (blocks + 2) + 1
    with_attention = [block for block in drawn if block[3]]
    assert len(with_attention) == len(network.attn_resolutions) * (2 * blocks + 1) + 1


def test_magnitudes_of_runs_side_by_side(tmp_path, capsys, tiny_recipe, tiny_data):
    first = run_of(tmp_path, tiny_recipe, tiny_data, "first", magnitudes_every=24)
    second = run_of(tmp_path, tiny_recipe.replace(forced_normalization=False), tiny_data, "second", magnitudes_every=48)
    rows = [json.loads(line) for line in (first / "stats.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "magnitudes" in row]
    assert [row["nimg"] for row in measured] == [8, 24, 48, 72, 96]
    assert list(measured[0]["magnitudes"]) == ["Enc 8x8", "Enc 4x4", "Dec 4x4", "Dec 8x8"]
    for row in measured[1:]:
        for values in row["magnitudes"].values():
            assert values["weight_max"] == pytest.approx(1, abs=1e-3)  # projected before each step
    main(["magnitudes", str(first), str(second), "--plot", str(tmp_path / "magnitudes.png")])
    assert (tmp_path / "magnitudes.png").stat().st_size > 10_000
    capsys.readouterr()
    main(["magnitudes", str(first)])
    assert "Dec 4x4" in capsys.readouterr().out
    main(["magnitudes", str(first), "--json"])
    assert json.loads(capsys.readouterr().out)[str(first)] == measured
    assert list((first / "tensorboard").iterdir())


def test_magnitudes_of_averages_are_measured_over_data(tmp_path, call, tiny_recipe):
    run = run_of(tmp_path, tiny_recipe.replace(network=tiny_recipe.network.replace(label_dim=10)), digits())
    snapshots = sorted((run / "snapshots").glob("*-0.100.safetensors"))
    given = (*snapshots, "--data", "digits", "--samples", 100, "--batch", 32, "--P-mean", -0.8, "--P-std", 1)
    rows = json.loads(call("magnitudes", *given, "--json").out)["run, EMA length 0.1"]
    assert [row["nimg"] for row in rows] == [24, 48, 72, 96]
    again = json.loads(call("magnitudes", *given, "--json").out)["run, EMA length 0.1"]
    assert again == rows
    assert rows[0] != rows[1]
    call("magnitudes", *given, "--plot", tmp_path / "magnitudes.svg")
    assert "EMA length 0.1" in (tmp_path / "magnitudes.svg").read_text()
    assert "--data" in call("magnitudes", snapshots[0], code=2).err


def test_measuring_magnitudes_changes_no_weight(tmp_path, tiny_recipe, tiny_data):
    runs = [
        run_of(tmp_path, tiny_recipe, tiny_data, "off"),
        run_of(tmp_path, tiny_recipe, tiny_data, "on", magnitudes_every=8),
    ]
    off, on = (run / "snapshots" / "0000000096-raw.safetensors" for run in runs)
    assert_same_tensors(off, on)


def test_a_run_without_magnitudes_says_how_to_get_them(tmp_path, capsys, tiny_recipe, tiny_data):
    run = run_of(tmp_path, tiny_recipe, tiny_data)
    with pytest.raises(SystemExit) as caught:
        main(["magnitudes", str(run)])
    assert caught.value.code == 2
    assert "--magnitudes-every" in capsys.readouterr().err


def test_config_a_writes_exponential_averages_and_resumes(tmp_path, tiny_recipe, tiny_data):
    base = recipe("edm2-img512-config-a")
    made = tiny_recipe.replace(
        network=tiny_recipe.network.replace(design="adm", dropout=0.1),
        forced_normalization=False,
        loss_scaling=base.loss_scaling,
        ema=(),
        ema_half_life=48,
        uncertainty_channels=0,
    )
    whole = run_of(tmp_path, made, tiny_data, "whole")
    names = sorted(path.name for path in (whole / "snapshots").iterdir())
    assert "0000000096-hl48.safetensors" in names
    config = TrainConfig(recipe=made.replace(duration=48), data="tiny", tick=48, checkpoint_every=96)
    train(config, tmp_path / "parts", tiny_data, quiet=True)
    longer = TrainConfig(recipe=made, data="tiny", tick=48, checkpoint_every=96)
    train(longer, tmp_path / "parts", tiny_data, resume=True, quiet=True)
    for name in ("0000000096-hl48.safetensors", "0000000096-raw.safetensors"):
        assert_same_tensors(whole / "snapshots" / name, tmp_path / "parts" / "snapshots" / name)
