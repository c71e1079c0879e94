"""Scores against costs: those of the papers' tables, and files of measurements that are not trusted."""

import json

import pytest

from unitgain.checkpoint.facts import SnapshotHeader
from unitgain.checkpoint.writer import write_snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser
from unitgain.recipes import recipe
from unitgain.report.scores import PAPERS, measured, paper_points, published, recipe_price, score_figure
from unitgain.serial import to_dict

TABLE_4 = {"xs": (1.65, 38.9), "s": (1.80, 42.5), "m": (2.02, 47.4), "l": (2.30, 53.8), "xl": (2.64, 61.6)}


@pytest.mark.parametrize(("size", "paper"), TABLE_4.items())
def test_a_guide_costs_what_the_paper_says(size, paper):
    price = recipe_price(recipe("edm2-img512-xxl"), f"edm2-img512-{size}-uncond")
    assert (round(price.parameters / 1e9, 2), round(price.sampling_teraflops, 1)) == paper


def test_the_command_prints_the_table(call):
    guides = [word for size in TABLE_4 for word in ("--guide", f"edm2-img512-{size}-uncond")]
    rows = json.loads(call("inspect", "edm2-img512-xxl", *guides, "--json").out)
    assert [round(row["sampling_teraflops"], 1) for row in rows] == [cost for _, cost in TABLE_4.values()]
    call("inspect", "edm2-img512-xxl", "--guide", "edm2-img512-xz-uncond", code=2)


def test_a_pair_that_could_not_draw_has_no_price(call):
    refused = call("inspect", "edm2-img512-xxl", "--guide", "edm2-img64-s", code=2)
    assert "the guide has channels 3, the main network 4" in " ".join(refused.err.split())


def test_published_points_are_those_of_recipes_with_labels():
    points = published(PAPERS["edm2"])
    fid = {(p.family, p.name, p.guided): p.value for p in points if p.metric == "FID"}
    assert fid["edm2-img512", "xxl", ""] == 1.91
    assert fid["edm2-img512", "xxl", "guided"] == 1.81
    assert fid["edm2-img512", "xxl", "autoguided"] == 1.25
    assert fid["edm2-img512-config", "A", ""] == 8.00
    assert len(fid) == len([p for p in points if p.metric == "FID"])
    assert not [p for p in points if "uncond" in p.name]


def test_the_figure_of_edm2plus_has_both_families_and_configs_without_a_line():
    points = paper_points("edm2plus")
    assert {point.metric for point in points} == {"FID"}
    values = {(p.family, p.name, p.guided): (p.value, round(p.price.gflops)) for p in points}
    assert values["edm2plus-img64", "s", ""] == (1.58, 50) and values["edm2-img64", "s", ""] == (1.58, 102)
    assert values["edm2plus-img64", "xl", ""] == (1.33, 199) and values["edm2-img64", "xl", ""] == (1.33, 406)
    assert values["edm2plus-img64-config", "G*", ""] == (1.58, 50)
    axes = score_figure(points).axes[0]
    joined = {line.get_label(): line.get_linestyle() != "None" for line in axes.get_lines()}
    assert joined["edm2-img64"] and joined["edm2plus-img64"] and not joined["edm2plus-img64-config"]
    assert {"A", "D*, F*", "G*"} <= {text.get_text() for text in axes.texts}


def measurement(snapshot, **source):
    source = {"snapshot": snapshot, "sampler": {"guidance": 1.0}, **source}
    return {"metric": "FD-EffNet", "best": 3.5, "records": [{"source": source}]}


def test_own_measurements_lie_beside_the_published(tmp_path, call, tiny_spec):
    snapshot = tmp_path / "tiny.safetensors"
    about = {
        "sigma_data": 0.5,
        "nimg": 64,
        "profile": {"kind": "raw"},
        "recipe": "tiny",
        "encoder": to_dict(PixelEncoder()),
    }
    write_snapshot(snapshot, SnapshotHeader(network=tiny_spec, **about), Denoiser(tiny_spec).state_dict())
    alone, guided = measurement(str(snapshot)), measurement(str(snapshot), guide="self", sampler={"guidance": 2.0})
    path = tmp_path / "own.json"
    path.write_text(json.dumps([alone, guided]))
    first, second = measured(path)
    assert (first.family, first.value, first.guided, second.guided) == ("own", 3.5, "", "guided")
    assert second.price.gflops == 2 * first.price.gflops
    assert second.price.parameters == first.price.parameters > 0
    free, weak = (tmp_path / f"{name}.safetensors" for name in ("unconditional", "weak"))
    for guide, spec in ((free, tiny_spec.replace(label_dim=0)), (weak, tiny_spec.replace(model_channels=8))):
        write_snapshot(guide, SnapshotHeader(network=spec, **about), Denoiser(spec).state_dict())
    others = [measurement(str(snapshot), guide=str(guide), sampler={"guidance": 2.0}) for guide in (free, weak)]
    (tmp_path / "others.json").write_text(json.dumps(others))
    assert [point.guided for point in measured(tmp_path / "others.json")] == ["guided", "autoguided"]
    drawn = {axes.get_ylabel() for axes in score_figure([first, second]).axes}
    assert "FD-EffNet" in drawn
    call("inspect", "--configs", "edm2plus", "--plot", tmp_path / "scores.svg", "--measured", path)
    assert "FD-EffNet" in (tmp_path / "scores.svg").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]x", "no JSON|JSON"),
        ('[{"metric": "FID"}]', "no list of measurements"),
        (json.dumps([measurement("org/name")]), "which is not there"),
        (json.dumps([measurement("x") | {"best": "2"}]), "no list of measurements"),
        (json.dumps([measurement(None)]), "does not say which network"),
    ],
)
def test_files_that_are_no_measurements(tmp_path, content, message):
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises((ValueError, OSError), match=message):
        measured(path)
