"""Magnitudes by bucket: closed forms, and hooks that are there only while they are wanted."""

import json

import pytest
import torch

from unitgain.analysis.buckets import bucket_of
from unitgain.analysis.magnitude import measure, row_magnitudes, watch
from unitgain.denoiser import Denoiser
from unitgain.loss import EDMLoss


def hooks(module):
    return sum(len(m._forward_hooks) for m in module.modules())


def test_hooks_are_there_only_inside(tiny_spec):
    denoiser = Denoiser(tiny_spec)
    assert hooks(denoiser) == 0
    with pytest.raises(RuntimeError, match="on purpose"), watch(denoiser):
        assert hooks(denoiser) > 0
        raise RuntimeError("on purpose")
    assert hooks(denoiser) == 0


def test_watching_changes_nothing(tiny_spec):
    denoiser = Denoiser(tiny_spec)
    denoiser.network.get_parameter("out_gain").data.fill_(1.0)
    x = torch.randn(2, 1, 8, 8)
    before = denoiser(x, 1.0)
    with watch(denoiser):
        assert torch.equal(denoiser(x, 1.0), before)


def test_magnitudes_are_those_of_the_tensors(tiny_spec):
    denoiser = Denoiser(tiny_spec.replace(num_blocks=1)).eval()
    weight = denoiser.network.get_parameter("enc.8x8_conv.weight")
    weight.data[0] = 3.0
    seen = []
    for layer in (
        "8x8_conv",
        "8x8_block0.branch.conv0",
        "8x8_block0.branch.modulation0.linear",
        "8x8_block0.branch.conv1",
    ):
        denoiser.network.get_submodule(f"enc.{layer}").register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad(), watch(denoiser) as probe:
        denoiser(torch.randn(4, 1, 8, 8), 1.0)
    features = torch.cat([out.transpose(0, 1).flatten(1).square().mean(1).sqrt() for out in seen])
    values = probe.buckets()["Enc 8x8"]
    assert values["activation_mean"] == pytest.approx(features.mean().item(), rel=1e-5)
    assert values["activation_max"] == pytest.approx(features.max().item(), rel=1e-5)
    assert values["weight_max"] == pytest.approx(3.0)


def test_evaluations_are_averaged(tiny_spec):
    denoiser = Denoiser(tiny_spec).eval()
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        with watch(denoiser) as whole:
            denoiser(x, 1.0)
        with watch(denoiser) as halves:
            denoiser(x[:2], 1.0)
            denoiser(x[2:], 1.0)
    for bucket, values in whole.buckets().items():
        assert halves.buckets()[bucket] == pytest.approx(values, rel=1e-4)


def test_buckets():
    assert bucket_of("network.enc.64x64_block0.branch.conv0") == "Enc 64x64"
    assert bucket_of("dec.8x8_in0.attention.qkv") == "Dec 8x8"
    assert bucket_of("network.out_conv") is None
    assert bucket_of("network.embedding.noise") is None


def test_rows_of_normal_weights_have_unit_magnitude_whatever_the_fan_in():
    for shape in [(64, 4096), (64, 16, 3, 3), (64, 512, 3, 3)]:
        assert row_magnitudes(torch.randn(shape)).mean().item() == pytest.approx(1, abs=0.02)


class Noiseless(EDMLoss):
    def draw(self, clean, generator=None):
        return torch.full((len(clean),), 0.5), torch.zeros_like(clean)


def test_images_count_alike_however_they_come(tiny_spec):
    denoiser = Denoiser(tiny_spec.replace(label_dim=0)).train()
    denoiser.network.get_parameter("out_gain").data.fill_(1.0)
    clean, loss = torch.randn(7, 1, 8, 8), Noiseless(P_mean=0.0, P_std=1.0)
    once = measure(denoiser, [(clean, None)], loss)
    parts = measure(denoiser, [(clean[:2], None), (clean[2:], None)], loss)
    assert denoiser.training
    for bucket, values in once.items():
        assert parts[bucket] == pytest.approx(values, rel=1e-5)
    with pytest.raises(ValueError, match="no images"):
        measure(denoiser, [], loss)


def test_values_that_are_not_finite_are_left_out(tiny_spec):
    denoiser = Denoiser(tiny_spec.replace(num_blocks=1)).eval()
    denoiser.network.get_parameter("enc.8x8_conv.weight").data[0] = float("inf")
    with torch.no_grad(), watch(denoiser) as probe:
        denoiser(torch.randn(4, 1, 8, 8), 1.0)
    buckets = probe.buckets()
    assert not buckets["Enc 8x8"].keys() & {"activation_max", "weight_max", "weight_mean"}
    assert "weight_mean" in buckets["Dec 8x8"]
    json.dumps(buckets, allow_nan=False)
