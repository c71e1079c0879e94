"""Prepared networks on the Triton kernels against the exact ones: on a GPU where there is one, else interpreted."""

import json
import sys
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
import torch
from conftest import relative_error, trained
from PIL import Image
from triton_tests import DEVICE, image, needs_triton

from unitgain.arch import NetworkSpec
from unitgain.arch.configs import edm2_configs, edm2plus_configs
from unitgain.bench.cases import Case
from unitgain.bench.forward import forward
from unitgain.bench.measure import Pace
from unitgain.checkpoint.snapshot import SnapshotHeader, write_snapshot
from unitgain.cli.main import main
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser
from unitgain.infer import prepare
from unitgain.infer.blocks import FoldedBlock
from unitgain.infer.fused import FusedDepthwise
from unitgain.infer.kernels import ActivatedDepthwise, Kernels
from unitgain.kernels import functions, ready, reference
from unitgain.serial import to_dict

TINY = {
    "resolution": 4,  # down to 2: images of one pixel have no layout, and upsampling takes them for NCHW
    "channels": 1,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (4,),
    "channels_per_head": 8,
}
CONFIGS = {f"EDM2 {name}": spec for name, spec in edm2_configs().items()}
CONFIGS |= {f"EDM2+ {name}": spec for name, spec in edm2plus_configs().items()}
DEPTHWISE = [name for name, spec in CONFIGS.items() if "d" in spec.tokens]
MODERN = "EDM2+ g-bottleneck"


def tiny(name: str, **changes) -> Denoiser:
    """A tiny network of a config, where the kernels run."""
    return trained(CONFIGS[name].replace(**{**TINY, **changes})).to(DEVICE)


def inputs(spec: NetworkSpec, batch: int = 1):
    x = torch.randn(batch, spec.channels, spec.resolution, spec.resolution, device=DEVICE)
    return x, torch.rand(batch, device=DEVICE) * 3 + 0.05, torch.arange(1, batch + 1, device=DEVICE) % spec.label_dim


def exact(denoiser, *given):
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return denoiser(*given)


def added(denoised, x, sigma):
    """What the network adds, without the part of D that is the input."""
    return denoised - (0.25 / (sigma**2 + 0.25))[:, None, None, None] * x


@pytest.fixture
def kernels_only(monkeypatch):
    """Fails where the reference makes a 3x3 convolution in the place of a kernel."""

    def larger(x, weight, *how):
        assert weight.shape[-1] > 3
        return reference.depthwise(x, weight, *how)

    monkeypatch.setattr(functions, "reference", SimpleNamespace(depthwise=larger))


@needs_triton
@pytest.mark.parametrize("config", DEPTHWISE)
def test_every_config_with_depthwise_convolutions_in_float32_to_1e_5(config, kernels_only):
    denoiser = tiny(config)
    x, sigma, label = inputs(denoiser.spec)
    expected = exact(denoiser, x, sigma, label)
    prepared = prepare(denoiser, torch.float32, kernels=True)
    found = exact(prepared, x, sigma, label)
    assert relative_error(found, expected) < 2e-6
    assert relative_error(added(found, x, sigma), added(expected, x, sigma)) < 1e-5
    blocks = [*prepared.network.enc.values(), *prepared.network.dec.values()]
    made = [block for block in blocks if isinstance(block, FoldedBlock)]
    assert len(made) == len(blocks) - 1  # all but the first convolution
    assert all(isinstance(block.backend, Kernels) for block in made)


@needs_triton
@pytest.mark.parametrize(
    "changes",
    [
        {"branch": "s s d m P s s"},
        {"branch": "m m s d P m"},
        {"branch": "s d m s d P"},
        {"branch": "s m s m m d P"},
        {"branch": "s m E d s P m", "expansion": 2, "clip_act": 0.5},
        {"res_balance": 0.0, "attn_balance": 0.7},
        {"concat_balance": 1.0},
    ],
    ids=str,
)
def test_constants_are_folded_exactly(changes, kernels_only):
    denoiser = tiny(MODERN, **changes)
    given = inputs(denoiser.spec)
    found = exact(prepare(denoiser, torch.float32, kernels=True), *given)
    assert relative_error(found, exact(denoiser, *given)) < 2e-6


@needs_triton
def test_tokens_that_kernels_do_not_know(kernels_only, new_tokens):
    denoiser = tiny(MODERN, branch="s i d E b P s m d")
    given = inputs(denoiser.spec)
    found = exact(prepare(denoiser, torch.float32, kernels=True), *given)
    assert relative_error(found, exact(denoiser, *given)) < 2e-6


@needs_triton
def test_low_precision_is_close():
    denoiser = tiny(MODERN)
    given = inputs(denoiser.spec)
    for dtype, tolerance in ((torch.bfloat16, 1e-2), (torch.float16, 2e-3)):
        found = prepare(denoiser, dtype, kernels=True)(*given)
        assert found.dtype == torch.float32
        assert 1e-7 < relative_error(found, exact(denoiser, *given)) < tolerance


@needs_triton
def test_depthwise_convolutions_take_in_what_is_before_them():
    denoiser = tiny(MODERN)
    with_kernels, without = prepare(denoiser, torch.float32, kernels=True), prepare(denoiser, torch.float32)
    assert denoiser.spec.branch == "s d E s P s m d"
    branch, *_ = [block.branch for block in with_kernels.modules() if isinstance(block, FoldedBlock)]
    assert [type(step).__name__ for step in branch] == [
        *("ActivatedDepthwise", "FoldedConv", "FoldedConv", "ActivatedDepthwise")
    ]
    found = [(step.slot is not None, step.silu, step.after) for step in branch if isinstance(step, ActivatedDepthwise)]
    assert found == [(False, True, False), (True, True, True)]
    assert not any(isinstance(module, FusedDepthwise) for module in with_kernels.modules())
    assert not any(isinstance(module, ActivatedDepthwise) for module in without.modules())


@needs_triton
def test_a_compiled_block_has_no_break(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the checker itself cannot be compiled
    prepared = prepare(tiny(MODERN, channel_mult=(1,)), torch.bfloat16, kernels=True)
    block = next(block for block in prepared.modules() if isinstance(block, FoldedBlock))
    x = image(1, 8, 2, 2).detach()
    scales = [torch.randn(1, 8, device=DEVICE) for _ in prepared.network.embedding.sizes]
    with torch.no_grad():
        wanted = block(x, scales)
        found = torch.compile(block, fullgraph=True, backend="aot_eager")(x, scales)
    assert relative_error(found, wanted) < 1e-6


@pytest.fixture
def snapshot(tmp_path):
    denoiser = tiny(MODERN, channel_mult=(1,), attn_resolutions=())
    header = SnapshotHeader(
        network=denoiser.spec,
        sigma_data=0.5,
        nimg=1,
        profile={"kind": "raw"},
        recipe="none",
        encoder=to_dict(PixelEncoder()),
    )
    write_snapshot(tmp_path / "net.safetensors", header, denoiser.state_dict(), "float32")
    return tmp_path / "net.safetensors"


@needs_triton
def test_images_are_drawn_on_kernels_if_asked_for(snapshot, tmp_path, monkeypatch, kernels_only):
    monkeypatch.setattr("unitgain.sample.tiles.tile_size", lambda *_: 2)  # rather than 64, which take long interpreted
    run = ["sample", str(snapshot), "--steps", "2", "--seeds", "0-1", "--dtype", "float32", "--device", DEVICE, "--out"]
    for options in ([], ["--kernels"]):
        main([*run, str(tmp_path / f"out{len(options)}"), *options])
    plain, mine = (
        [np.asarray(Image.open(tmp_path / folder / "000000" / f"00000{seed}.png"), dtype=int) for seed in (0, 1)]
        for folder in ("out0", "out1")
    )
    assert all(np.abs(one - other).max() <= 1 for one, other in zip(plain, mine, strict=True))
    settings = json.loads((tmp_path / "out1" / "manifest.json").read_text())["settings"]
    assert settings["kernels"] is True
    assert "kernels" not in json.loads((tmp_path / "out0" / "manifest.json").read_text())["settings"]


@needs_triton
def test_bench_measures_kernels_and_their_error(snapshot, quick_bench):
    cases = [Case(str(snapshot), mode) for mode in ("plain", "float32+kernels")]
    report = forward(cases, device=DEVICE, pace=Pace(repeats=1))
    facts = report.row(f"{snapshot}:float32+kernels").facts
    assert 0 < facts["error"] < (1e-5 if DEVICE == "cpu" else 1e-2)  # GPUs round convolutions to TF32 by default
    assert {"prepare_seconds", "compile_seconds"} <= facts.keys()


def test_what_cannot_run_on_kernels_is_refused_with_a_reason(monkeypatch):
    denoiser = Denoiser(CONFIGS[MODERN].replace(**TINY))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"run on GPUs, and this network is on the CPU.*TRITON_INTERPRET=1"):
        prepare(denoiser, torch.float32, kernels=True)
    with pytest.raises(ValueError, match="this network is on meta"):
        prepare(denoiser.to("meta"), torch.float32, kernels=True)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ImportError, match=r"triton is not installed: pip install 'unitgain\[kernels\]'"):
        prepare(denoiser, torch.float32, kernels=True)


@needs_triton
def test_networks_and_precisions_that_kernels_do_not_know_are_refused(monkeypatch, tiny_spec):
    for design, width in (("adm", 32), ("magnitude-preserving", 8)):
        other = Denoiser(tiny_spec.replace(design=design, model_channels=width)).to(DEVICE)
        with pytest.raises(ValueError, match=f"this network of design '{design}' has no depthwise convolutions"):
            prepare(other, torch.float32, kernels=True)
    monkeypatch.setattr(ready, "runs_on", lambda device, dtype: dtype != torch.bfloat16)
    with pytest.raises(ValueError, match=r"cannot compute in torch\.bfloat16 on .*float16"):
        prepare(tiny(MODERN), torch.bfloat16, kernels=True)
