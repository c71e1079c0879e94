"""What `unitgain.bench` measures: same results, right ratios, right sums."""

import json

import pytest
import torch

from unitgain.analysis.cost import network_cost
from unitgain.arch.configs import edm2_configs
from unitgain.arch.unet import MPUNet
from unitgain.bench.cases import Case, Mode, inputs, open_denoiser, parse_case, parse_mode
from unitgain.bench.forward import forward, tensor_float32
from unitgain.bench.measure import Pace
from unitgain.bench.memory import PeakMemory, in_use
from unitgain.bench.sampling import sampling
from unitgain.bench.tables import cells
from unitgain.bench.training import sized, training
from unitgain.checkpoint.snapshot import SnapshotHeader, write_snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.infer import fastest_dtype
from unitgain.native import images
from unitgain.sample import Euler, Heun, tile_size
from unitgain.serial import to_dict

PACE = Pace(repeats=2)
pytestmark = pytest.mark.usefixtures("quick_bench")


def test_cases_and_modes():
    assert parse_case("digits:bfloat16+compile", ("plain", "bfloat16"), ()) == [Case("digits", "bfloat16+compile")]
    assert parse_case("a:b/c.safetensors", ("plain",), ("plain", "fast")) == [
        Case("a:b/c.safetensors", "plain"),
        Case("a:b/c.safetensors", "fast"),
    ]
    assert Case("digits", "plain").name == "digits:plain"
    assert parse_mode("plain") == Mode("plain", torch.float32)
    assert parse_mode("exact+float16") == Mode("exact", torch.float16)
    assert parse_mode("fast") == Mode("fast", fastest_dtype("cpu"))
    assert parse_mode("float32+direct") == Mode("float32", torch.float32, {"direct": ""})
    assert parse_mode("float32+compile=max-autotune+graph").options == {"compile": "max-autotune", "graph": ""}
    assert parse_mode("float16+microbatch=16", options=("microbatch=N",)).options == {"microbatch": "16"}
    assert [parse_mode(f"float32{how}").first_is_slow for how in ("", "+compile", "+kernels", "+graph")] == [
        *(False, True, True, True)
    ]
    wrong_ones = ("", "fastest", "plain+compile", "float32+float16", "float32+compile=most", "plain+float16+bfloat16")
    for wrong in (*wrong_ones, "exact+kernels", "float32+kernels=1", "float32+graph+graph", "float32+microbatch=N"):
        with pytest.raises(ValueError, match="cannot read the mode"):
            parse_mode(wrong)
    with pytest.raises(ValueError, match=r"plain takes one of \+bfloat16, \+float16, each once, not \+compile"):
        parse_mode("plain+compile")
    with pytest.raises(ValueError, match="did you mean 'plain'"):
        parse_case("digits:plane", ("plain", "fast"), ())


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("float32", {"compile": False, "winograd": True, "kernels": False, "graph": False}),
        ("float32+compile+kernels", {"compile": True, "winograd": True, "kernels": True, "graph": False}),
        (
            "float32+compile=max-autotune",
            {"compile": "max-autotune", "winograd": True, "kernels": False, "graph": False},
        ),
        ("float32+direct+graph", {"compile": False, "winograd": False, "kernels": False, "graph": True}),
    ],
)
def test_options_are_those_of_prepare(text, options, monkeypatch, tiny_recipe):
    asked = []
    monkeypatch.setattr("unitgain.bench.cases.prepare", lambda *how, **more: asked.append((*how, more)) or how[0])
    denoiser = open_denoiser(tiny_recipe)
    assert parse_mode(text).apply(denoiser) is denoiser
    assert asked == [(denoiser, torch.float32, options)]


@pytest.mark.parametrize("config", ["a", "c", "g"])
def test_what_a_network_adds_is_not_zero(config, tiny_recipe):
    spec = edm2_configs()[config].replace(
        **{name: getattr(tiny_recipe.network, name) for name in ("resolution", "model_channels", "channel_mult")},
        num_blocks=1,
        attn_resolutions=(4,),
        channels_per_head=8,
    )
    recipe = tiny_recipe.replace(network=spec)
    denoiser, again = open_denoiser(recipe), open_denoiser(recipe)
    x, sigma, label = inputs(denoiser, 2, "cpu")
    with torch.no_grad():
        assert denoiser.network(x, sigma, torch.zeros(2, spec.label_dim)).std() > 0.05
        assert torch.equal(denoiser(x, sigma, label), again(x, sigma, label))


def test_evaluations_of_one_network_in_several_modes(tiny_recipe):
    cases = [Case(tiny_recipe, mode) for mode in ("plain", "exact", "float32", "bfloat16", "plain+bfloat16")]
    report = forward(cases, batch=3, pace=PACE)
    assert [row.name for row in report.rows] == [f"tiny:{case.mode}" for case in cases]
    plain, exact, prepared, half, plain_half = report.rows
    assert plain.ratio == 1.0
    assert plain.facts == {"error": 0.0}
    assert exact.facts["error"] < 1e-5
    assert prepared.facts["error"] < 2e-6
    assert 1e-4 < half.facts["error"] < 2e-2
    assert 1e-4 < plain_half.facts["error"] < 2e-2
    assert half.facts["prepare_seconds"] > 0
    for row in report.rows:
        assert (row.items, row.turns) == (3, 2)
        assert row.seconds_low <= row.seconds <= row.seconds_high
        assert row.rate == pytest.approx(3 / row.seconds)
        assert row.macs == 3 * network_cost(tiny_recipe.network).macs
        assert row.share == pytest.approx(row.macs / row.seconds / 1e9)
    assert "of peak" in cells(report)[0]
    assert json.loads(json.dumps(to_dict(report)))["rows"][3]["name"] == "tiny:bfloat16"


def test_a_snapshot_is_measured_as_it_was_trained(tmp_path, tiny_spec, tiny_recipe):
    denoiser = open_denoiser(tiny_recipe)
    encoder = to_dict(PixelEncoder())
    header = SnapshotHeader(
        network=tiny_spec, sigma_data=0.5, nimg=0, profile={"kind": "raw"}, recipe="tiny", encoder=encoder
    )
    path = tmp_path / "a.safetensors"
    write_snapshot(path, header, denoiser.state_dict(), "float32")
    opened = open_denoiser(str(path))
    x, sigma, label = inputs(denoiser, 2, "cpu")
    assert torch.equal(opened(x, sigma, label), denoiser(x, sigma, label))
    with pytest.raises(ValueError, match="no recipe, no snapshot and no network"):
        open_denoiser("nothing")
    with pytest.raises(ValueError, match="unknown recipe"):
        training([Case(str(path), "float32")])


def test_steps_take_the_options_of_training(tiny_recipe):
    cases = [Case(tiny_recipe, mode) for mode in ("float32", "bfloat16+recompute+microbatch=4+normalize-each")]
    report = training(cases, batch=8, pace=PACE)
    assert [row.facts["microbatch"] for row in report.rows] == [8, 4]
    assert report.rows[1].macs == report.rows[0].macs
    assert report.rows[0].items == 8
    for wrong in ("fast", "plain", "float32+microbatch=0", "float32+microbatch=x", "float32+bfloat16"):
        with pytest.raises(ValueError, match="cannot read the mode"):
            training([Case(tiny_recipe, wrong)])
    with pytest.raises(ValueError, match="must divide"):
        training([Case(tiny_recipe, "float32+microbatch=3")], batch=8)
    assert sized(tiny_recipe.replace(batch=64, duration=64, snapshot_every=64), None).batch == 16


@pytest.mark.parametrize(("sampler", "number"), [(Heun(), 5), (Euler(), 3)])
def test_samples(tiny_recipe, sampler, number, monkeypatch):
    seen = []
    forward_of = MPUNet.forward
    monkeypatch.setattr(MPUNet, "forward", lambda self, x, *rest: seen.append(x.shape) or forward_of(self, x, *rest))
    network_cost(tiny_recipe.network)  # counts once, and not below
    seen.clear()
    report = sampling([Case(tiny_recipe, "exact")], steps=3, sampler=sampler, pace=Pace(repeats=1))
    (whole,) = report.rows
    assert whole.items == tile_size(open_denoiser(tiny_recipe), "cpu") == 64
    assert whole.facts["evaluations"] == number
    assert whole.macs == 64 * number * network_cost(tiny_recipe.network).macs
    assert {len(shape) for shape in seen} == {4}
    assert {shape[0] for shape in seen} == {64}
    assert len(seen) % number == 0


def test_guided_samples_cost_two_networks(tiny_recipe):
    small = tiny_recipe.replace(
        name="small", network=tiny_recipe.network.replace(model_channels=4, channels_per_head=4)
    )
    found = {}
    for guide in (None, small):
        report = sampling([Case(tiny_recipe, "float32")], batch=2, steps=2, guide=guide, guidance=1.5, pace=PACE)
        found[guide is None] = report.rows[0]
        assert report.rows[0].facts["evaluations"] == 6
    alone = sampling([Case(tiny_recipe, "float32")], batch=2, steps=2, pace=PACE).rows[0]
    assert found[True].macs == 2 * alone.macs
    assert alone.macs < found[False].macs < found[True].macs


def test_memory_is_seen():
    with PeakMemory() as memory:
        kept = torch.ones(2**22)  # 16 MiB
        gone = torch.ones(2**24)
        del gone
    if in_use():
        assert 0.9 * 2**26 < memory.gained < 1.5 * 2**26
        assert 0.9 * 2**24 < memory.kept < 1.5 * 2**24
    assert kept.sum() == 2**22


def test_memory_that_is_kept_for_the_next_images_counts_as_theirs():
    """Or an evaluation would take nothing once another had been made."""
    for _ in range(2):
        with PeakMemory() as memory:
            images((1, 64, 256, 256), torch.float32).fill_(1)  # 16 MiB
        if in_use():
            assert 0.9 * 2**24 < memory.gained < 1.5 * 2**24


def test_tf32_holds_for_as_long_as_it_is_asked_for():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with pytest.raises(InterruptedError), tensor_float32():
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
        raise InterruptedError
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_tf32_is_for_gpus(quick_bench):
    with pytest.raises(ValueError, match="only GPUs round to TF32"):
        forward([Case("digits", "exact")], tf32=True)
