"""Every recipe builds, travels as JSON, and is what its paper says."""

import json

import pytest
import torch

from unitgain.analysis.counts import recipe_costs
from unitgain.arch.embed import Fourier
from unitgain.denoiser import Denoiser, NoUncertainty, make_uncertainty
from unitgain.layers import MPConv, MPFourier
from unitgain.loss import EDMLoss
from unitgain.recipe import Recipe
from unitgain.recipes import RECIPES, create, list_recipes, recipe
from unitgain.serial import from_dict, to_dict
from unitgain.train.warmup import training_rate

SIZES = ("xs", "s", "m", "l", "xl")
STARRED = ("f-bottleneck", "g-bottleneck", "f-bottleneck-ms", "g-bottleneck-ms")
NAMES = [
    "digits",
    "pixels32",
    "pixels64",
    "pixels64-mini",
    *[f"edm2-img512-{size}{end}" for size in ("xxs", *SIZES, "xxl") for end in ("", "-uncond")],
    *[f"edm2-img64-{size}{end}" for size in SIZES for end in ("", "-uncond")],
    *[f"edm2-img512-config-{config}" for config in "abcdefg"],
    *[f"edm2plus-img64-{size}" for size in SIZES],
    *[f"edm2plus-img512-{size}" for size in (*SIZES, "xxl")],
    *[f"edm2plus-img64-config-{config}" for config in ("a", "b", "c", "d", "d-e4", "e", "e-k7", "f", "g", *STARRED)],
]


def test_there_are_all_of_them():
    assert set(NAMES) == set(RECIPES)


@pytest.mark.parametrize("name", NAMES)
def test_builds_on_the_meta_device_and_round_trips(name):
    made = recipe(name)
    assert made.name == name
    assert made.summary
    assert made.command == f"unitgain train {name}"
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(made)))) == made
    with torch.device("meta"):
        denoiser = create(name)
    assert isinstance(denoiser, Denoiser)
    assert next(denoiser.parameters()).is_meta
    for score in made.scores:
        assert score.guide in ("", *RECIPES)
        assert score.guide_nimg <= RECIPES[score.guide].duration if score.guide else not score.guide_nimg


def test_unconditional_recipes_have_no_labels_and_are_otherwise_the_same():
    for name in NAMES:
        if name.endswith("-uncond"):
            conditional = recipe(name.removesuffix("-uncond"))
            assert recipe(name).network == conditional.network.replace(label_dim=0)
            assert recipe(name).lr == conditional.lr


def test_recipes_outside_the_papers_say_so():
    for name in NAMES:
        if name.startswith("edm2plus-img512"):
            assert "not in the paper" in recipe(name).summary
            assert not recipe(name).scores


def test_only_what_table_6_holds_says_so():
    in_table = {f"edm2-img512-{size}" for size in (*SIZES, "xxl")} | {f"edm2-img64-{size}" for size in SIZES[1:]}
    assert {name for name in NAMES if "(Table 6)" in recipe(name).summary} == in_table
    for name in in_table:
        assert "not in Table 6" in recipe(f"{name}-uncond").summary


def test_edm2plus_modulates_after_the_last_silu_as_eq_9_is_printed():
    for name in (*(f"edm2plus-img64-{size}" for size in SIZES), "edm2plus-img512-xxl", "pixels32", "pixels64"):
        assert recipe(name).network.branch == "s d E s P s m d"
    tokens = {name: recipe(f"edm2plus-img64-config-{name}").network.branch for name in STARRED}
    assert tokens == {
        "f-bottleneck": "s d E s d s P s m d",
        "g-bottleneck": "s d E s P s m d",
        "f-bottleneck-ms": "s d E s d s P m s d",
        "g-bottleneck-ms": "s d E s P m s d",
    }
    for name in STARRED:
        made = recipe(f"edm2plus-img64-config-{name}")
        assert bool(made.scores) != name.endswith("-ms")
        assert ("not in the paper" in made.summary) == name.endswith("-ms")


def test_scores_say_how_they_were_sampled():
    lengths = {config: recipe(f"edm2-img512-config-{config}").scores[0].sigma_rel for config in "abcdefg"}
    assert lengths == {"a": 0.034, "b": 0.09, "c": 0.075, "d": 0.225, "e": None, "f": None, "g": 0.13}
    guided = recipe("edm2plus-img64-s").scores[1]
    assert (guided.value, guided.guide, guided.guide_nimg) == (1.0, "edm2plus-img64-xs", 2**31 // 8)


def test_each_config_of_edm2_trains_as_its_figure_says():
    a, b, c, d, e, f, g = (recipe(f"edm2-img512-config-{config}") for config in "abcdefg")
    assert (a.batch, a.lr, a.beta2, a.loss, a.ema, a.ema_half_life) == (
        4096,
        1e-4,
        0.999,
        EDMLoss(P_mean=-1.2, P_std=1.2),
        (),
        5e7,
    )
    assert (b.batch, b.lr, b.beta2, b.loss, b.ema, b.ema_half_life) == (
        2048, 2e-4, 0.99, EDMLoss(P_mean=-0.4, P_std=1.0), (0.05, 0.1), 0,
    )  # fmt: skip
    assert [step.loss_scaling for step in (a, b, c, d, e, f, g)] == [100, 100, 100, 1, 1, 1, 1]
    assert [step.lr for step in (c, d, e, f, g)] == [2e-4, 1e-2, 1e-2, 1e-2, 1e-2]
    assert [step.t_ref for step in (a, b, c, d, e, f, g)] == [0, 0, 0, 0, 70_000, 70_000, 70_000]
    assert [step.forced_normalization for step in (a, b, c, d, e, f, g)] == [False] * 4 + [True] * 3
    assert [step.uncertainty_channels > 0 for step in (a, b, c, d, e, f, g)] == [False] + [True] * 6
    assert [step.network.dropout for step in (a, b, c, d, e, f, g)] == [0.1] * 6 + [0]
    assert g.replace(name="", summary="", scores=()) == recipe("edm2-img512-s").replace(name="", summary="", scores=())


def test_the_uncertainty_is_made_as_its_network_is():
    assert isinstance(make_uncertainty("adm", 0), NoUncertainty)
    assert not list(make_uncertainty("adm", 0).parameters())
    assert make_uncertainty("adm", 8).linear.bias is not None
    assert make_uncertainty("streamlined", 8).linear.bias is None
    for design, features in (("normalized", Fourier), ("magnitude-preserving", MPFourier)):
        made = make_uncertainty(design, 8)
        assert isinstance(made.fourier, features) and isinstance(made.linear, MPConv)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema": ()}, "Recipe.ema = .*needs at least one length, or an ema_half_life"),
        ({"ema": (0.1, 0.1)}, "Recipe.ema = .*names a length twice"),
        ({"ema": (0.05, 0.0500000001)}, "Recipe.ema = .*names a length twice"),
        ({"loss_scaling": 0.0}, "Recipe.loss_scaling = 0.0: must be positive"),
        ({"ema_half_life": -1}, "Recipe.ema_half_life = -1: must not be negative"),
    ],
)
def test_fields_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe("digits").replace(**changes)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'edm2plus-img64-s'"):
        recipe("edm2plus-img64s")


def test_recipes_are_listed_by_pattern_the_cheapest_first():
    assert set(list_recipes()) == set(RECIPES)
    flops = [recipe_costs()[name].evaluation.flops for name in list_recipes()]
    assert flops == sorted(flops) and list_recipes()[0] == "digits"
    found = list_recipes("edm2*img64*")
    assert set(found) == {name for name in NAMES if name.startswith("edm2") and "img64" in name}
    assert list_recipes("IMG512-XXS") == ("edm2-img512-xxs-uncond", "edm2-img512-xxs")
    assert list_recipes("edm2-img512-xxs*d") == ("edm2-img512-xxs-uncond",)
    with pytest.raises(ValueError, match="no recipe is called 'digit5'; did you mean 'digits'"):
        list_recipes("digit5")
    with pytest.raises(ValueError, match="unitgain recipes lists them all"):
        list_recipes("zzz *")


def test_the_command_says_what_recipes_cost_on_this_machine(call, monkeypatch):
    monkeypatch.setattr("unitgain.train.warmup.training_rate", lambda device, dtype: 6e9)
    found = json.loads(call("recipes", "pixels*", "--json", "--device", "cpu").out)
    assert [row["name"] for row in found["recipes"]] == ["pixels64-mini", "pixels32", "pixels64"]
    assert found["machine"] == {"device": "cpu", "operations_per_second": {"float32": 6e9}}
    for row in found["recipes"]:
        assert row["images_per_second"] == pytest.approx(2 / row["gflops"])
        assert row["seconds"] == pytest.approx(row["duration"] * row["gflops"] / 2)
        assert row["seconds_per_million"] == pytest.approx(1e6 * row["gflops"] / 2)
        assert row["state_bytes"] == 4 * 6 * row["parameters"]
    shown = call("recipes", "xxs", "--device", "cpu").out
    assert "edm2-img512-xxs-uncond" in shown and "years" in shown
    bare = call("recipes", "xxs", "--unmeasured").out
    assert "edm2-img512-xxs-uncond" in bare and "years" not in bare
    assert "did you mean 'digits'" in call("recipes", "digit5", code=2).err


def test_the_rate_of_training_is_measured_without_a_trace():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert training_rate("cpu", seconds=0.0) > 0
    assert torch.equal(torch.rand(1), expected)
