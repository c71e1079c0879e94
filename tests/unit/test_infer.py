"""Prepared denoisers give the same images: folding is exact, low precision is close, the original stays as it was."""

import subprocess
import sys
from importlib import import_module

import pytest
import torch
from conftest import relative_error, trained
from torch import nn

from unitgain.arch import NetworkSpec
from unitgain.arch.block import Block
from unitgain.arch.configs import edm2_configs, edm2plus_configs
from unitgain.arch.operations import Convolve
from unitgain.infer import Prepared, fastest_dtype, prepare
from unitgain.infer.blocks import FoldedBranch
from unitgain.infer.fused import FilteredConv, FusedDepthwise, pays_to_filter
from unitgain.infer.layers import fold_weight
from unitgain.infer.passes import Passes
from unitgain.layers import MPConv, effective_weight
from unitgain.native import Sum
from unitgain.ops import resample
from unitgain.sample import generate, sigma_grid
from unitgain.sample.tiles import tile_size, tiled

TINY = {
    "resolution": 8,
    "channels": 3,
    "label_dim": 5,
    "model_channels": 16,
    "channel_mult": (1, 2, 3),
    "num_blocks": 2,
    "attn_resolutions": (4,),
    "channels_per_head": 16,
}
CONFIGS = {f"EDM2 {name}": spec for name, spec in edm2_configs().items()}
CONFIGS |= {f"EDM2+ {name}": spec for name, spec in edm2plus_configs().items()}


def inputs(spec: NetworkSpec, batch: int = 3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, spec.channels, spec.resolution, spec.resolution, generator=generator)
    sigma = torch.rand(batch, generator=generator) * 3 + 0.05
    return x, sigma, torch.arange(batch) % spec.label_dim if spec.label_dim else None


@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_in_float32_to_1e_5(config):
    denoiser = trained(CONFIGS[config].replace(**TINY))
    with torch.no_grad():
        x, sigma, label = inputs(denoiser.spec)
        expected = denoiser(x, sigma, label)
    found = prepare(denoiser, torch.float32)(x, sigma, label)
    assert relative_error(found, expected) < 2e-6
    # what the network adds, without the part of D that is the input
    skip = 0.25 / (sigma**2 + 0.25)
    assert relative_error(found - skip[:, None, None, None] * x, expected - skip[:, None, None, None] * x) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"branch": "m s c m s c"},
        {"branch": "s c s m c"},
        {"branch": "s c m"},
        {"branch": "s c m s"},
        {"branch": "s m E s P m", "expansion": 3},
        {"branch": "s d m s d P s m m d"},
        {"branch": "m s m d E s m P s d"},
        {"branch": "s s c m c s s"},
        {"res_balance": 0.0},
        {"res_balance": 1.0},
        {"concat_balance": 0.0},
        {"concat_balance": 1.0},
        {"concat_balance": 0.3},
        {"attn_balance": 0.7},
        {"label_balance": 0.2},
        {"label_dim": 0},
        {"clip_act": 0.5},
        {"channel_mult": (2, 1, 3)},
        {"attn_resolutions": (8, 4, 2)},
        {"dropout": 0.5},
    ],
)
def test_constants_are_folded_exactly(changes):
    denoiser = trained(NetworkSpec(**(TINY | changes)))
    x, sigma, label = inputs(denoiser.spec)
    with torch.no_grad():
        expected = denoiser(x, sigma, label)
    assert relative_error(prepare(denoiser, torch.float32)(x, sigma, label), expected) < 2e-6


@pytest.mark.parametrize("branch", ["s d E b P s m d", "i s c s b i", "b g v", "i i s E b s d g"])
@pytest.mark.parametrize("native", [True, False])
def test_tokens_that_no_backend_knows_run_in_pytorch(branch, native, new_tokens, monkeypatch):
    """And everything around them as before."""
    if not native:
        monkeypatch.setattr(import_module("unitgain.infer.prepare"), "can_convolve_depthwise", lambda _: False)
    denoiser = trained(NetworkSpec(**TINY | {"branch": branch}))
    x, sigma, label = inputs(denoiser.spec)
    with torch.no_grad():
        expected = denoiser(x, sigma, label)
    assert relative_error(prepare(denoiser, torch.float32)(x, sigma, label), expected) < 2e-6
    assert relative_error(prepare(denoiser, torch.bfloat16)(x, sigma, label), expected) < 2e-2


class Averaged(nn.Module):
    """Every pixel with the mean of all: attention that no backend knows."""

    def forward(self, x):
        return 0.8 * x + 0.6 * x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_another_kind_runs_in_pytorch(dtype):
    denoiser = trained(NetworkSpec(**TINY))
    for module in denoiser.modules():
        if isinstance(module, Block) and not isinstance(module.attention, nn.Identity):
            module.attention = Averaged()
    x, sigma, label = inputs(denoiser.spec)
    with torch.no_grad():
        expected = denoiser(x, sigma, label)
    found = prepare(denoiser, dtype)(x, sigma, label)
    assert relative_error(found, expected) < (2e-6 if dtype == torch.float32 else 2e-2)


def test_a_trained_eps_is_kept_exactly():
    """Tiny activations, where the eps of Eq. 30 shows: factors before a norm must scale it too."""
    denoiser = trained(NetworkSpec(**TINY | {"concat_balance": 0.2}))
    x, sigma, label = inputs(denoiser.spec)
    seen = []
    network = prepare(denoiser, torch.float32).network
    x = x * 1e-4
    with torch.no_grad():
        one_hot = nn.functional.one_hot(label, 5).float()
        seen = denoiser.network(x, sigma, one_hot)
        seen_zero = denoiser.network(x * 0, sigma, one_hot)
        found, found_zero = network(x, sigma, label), network(x * 0, sigma, label)
    assert relative_error(found, seen) < 1e-5
    assert relative_error(found_zero, seen_zero) < 1e-5


def test_labels_of_every_kind():
    denoiser = trained(NetworkSpec(**TINY))
    prepared = prepare(denoiser, torch.float32)
    x, sigma, label = inputs(denoiser.spec)
    mixture = torch.rand(3, 5)
    for given in (label, mixture, nn.functional.one_hot(label, 5).float(), None):
        with torch.no_grad():
            assert relative_error(prepared(x, sigma, given), denoiser(x, sigma, given)) < 2e-6
    assert torch.equal(prepared(x, sigma, label), prepared(x, sigma, label))
    with pytest.raises(ValueError, match="classes 0 to 4"):
        prepared(x, sigma, torch.tensor([0, 1, 5]))
    with pytest.raises(ValueError, match="one class per image"):
        prepared(x, sigma, torch.tensor([0, 1]))


def test_low_precision_is_close():
    denoiser = trained(CONFIGS["EDM2+ g-bottleneck"].replace(**TINY))
    x, sigma, label = inputs(denoiser.spec)
    with torch.no_grad():
        expected = denoiser(x, sigma, label)
    for dtype, tolerance in ((torch.bfloat16, 1e-2), (torch.float16, 2e-3)):
        prepared = prepare(denoiser, dtype)
        found = prepared(x, sigma, label)
        assert found.dtype == torch.float32
        assert 1e-7 < relative_error(found, expected) < tolerance
        assert prepared.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_c_and_libraries_give_the_same(monkeypatch, dtype):
    denoiser = trained(CONFIGS["EDM2+ g-bottleneck"].replace(**TINY))
    x, sigma, label = inputs(denoiser.spec)
    found = prepare(denoiser, dtype)
    assert any(isinstance(module, FusedDepthwise) for module in found.modules())
    monkeypatch.setattr(import_module("unitgain.infer.prepare"), "can_convolve_depthwise", lambda _: False)
    plain = prepare(denoiser, dtype)
    assert not any(isinstance(module, FusedDepthwise) for module in plain.modules())
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    assert relative_error(found(x, sigma, label), plain(x, sigma, label)) < tolerance


COMPILED = """
import torch
from unitgain.arch.block import Block
from unitgain.arch.configs import edm2plus_configs
from unitgain.denoiser import Denoiser
from unitgain.infer import prepare

sizes = {"resolution": 8, "label_dim": 5, "attn_resolutions": (), "channels_per_head": 16}
sizes |= {"model_channels": 16, "channel_mult": (1,), "num_blocks": 1}
denoiser = Denoiser(edm2plus_configs()["g-bottleneck"].replace(**sizes)).eval()
with torch.no_grad():
    for parameter in denoiser.parameters():
        if not parameter.ndim:
            parameter.fill_(0.3)
    x, label = torch.randn(2, 3, 8, 8), torch.tensor([1, 4])
    expected = denoiser(x, 1.0, label)
compiled = prepare(denoiser, torch.float32, compile=True).warm_up(2)
assert (compiled(x, 1.0, label) - expected).norm() < 2e-6 * expected.norm()
print("the same")
"""


def test_compiled_and_warmed_up():
    """In a process of its own: shapes that are checked while they are traced confuse the compiler."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr


def test_any_number_of_networks_can_be_compiled():
    """They share their code, which torch compiles 8 times in a process and then runs as it is, with a warning."""
    from torch._dynamo import config

    denoiser = trained(NetworkSpec(**TINY))
    with config.patch(recompile_limit=8, accumulated_recompile_limit=8):
        for _ in range(3):
            prepare(denoiser, torch.float32, compile=True)
        assert config.recompile_limit >= 3 * 8
        assert config.accumulated_recompile_limit >= config.recompile_limit


def test_the_original_is_untouched():
    denoiser = trained(NetworkSpec(**TINY)).train()
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    pointers = {name: value.data_ptr() for name, value in denoiser.state_dict().items()}
    prepared = prepare(denoiser)
    assert isinstance(prepared, Prepared)
    assert denoiser.training
    assert denoiser.dtype == torch.float32
    after = denoiser.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not {value.data_ptr() for value in prepared.state_dict().values()} & set(pointers.values())
    assert all(parameter.requires_grad for parameter in denoiser.parameters())
    with pytest.raises(ValueError, match="prepared already"):
        prepare(prepared)
    with pytest.raises(ValueError, match=r"not torch\.int8"):
        prepare(denoiser, torch.int8)


def test_samples_are_those_of_the_original():
    denoiser = trained(NetworkSpec(**TINY))
    sigmas = sigma_grid(4, 0.1, 5.0)
    (expected,) = [images for _, _, images in generate(denoiser, range(5), sigmas)]
    (found,) = [images for _, _, images in generate(prepare(denoiser, torch.float32), range(5), sigmas)]
    assert relative_error(found, expected) < 1e-5
    (one,) = [images for _, _, images in generate(prepare(denoiser, torch.float32), [3], sigmas, batch=1)]
    assert torch.equal(one[0], found[3])


def test_images_beyond_what_fits_the_caches_are_taken_one_after_the_other():
    denoiser = trained(NetworkSpec(**TINY | {"model_channels": 96, "resolution": 64, "attn_resolutions": ()}))
    prepared = prepare(denoiser, torch.float32, winograd=False)
    assert prepared.at_once == 1
    x, sigma, label = torch.randn(3, 3, 8, 8), torch.tensor([0.1, 1.0, 5.0]), torch.tensor([0, 4, 2])
    for level, given in ((sigma, label), (0.7, None), (sigma, torch.rand(3, 5))):
        with torch.no_grad():
            assert relative_error(prepared(x, level, given), denoiser(x, level, given)) < 2e-6
        one = None if given is None else given[1:2]
        assert torch.equal(
            prepared(x, level, given)[1:2], prepared(x[1:2], sigma[1:2] if given is not None else 0.7, one)
        )
    with pytest.raises(ValueError, match="one class per image"):
        prepared(x, sigma, label[:2])
    with pytest.raises(ValueError, match="sigma has shape"):
        prepared(x, sigma[:2], label)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_that_share_a_reading_of_weights_are_those_of_one_alone(dtype):
    """To the bit, in tiles of the sampler too."""
    sizes = {"model_channels": 96, "resolution": 64, "channel_mult": (1, 1, 1, 1), "num_blocks": 1}
    denoiser = trained(NetworkSpec(**TINY | sizes | {"attn_resolutions": (16, 8), "label_dim": 12}))
    prepared = prepare(denoiser, dtype)
    if not pays_to_filter(dtype):
        pytest.skip("this machine does not filter")
    assert tile_size(denoiser, "cpu") == 1
    assert prepared.at_once == 8
    given = inputs(denoiser.spec, batch=11)
    together = prepared(*given)
    alone = [prepared(*(value[i : i + 1] for value in given)) for i in range(11)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(tiled(prepared, "cpu")(*given), together)
    with torch.no_grad():
        assert relative_error(together, denoiser(*given)) < (2e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [(64, 64), (80, 48)])
def test_odd_numbers_of_channels_pixels_and_classes_do_not_matter_to_others(dtype, side):
    """Ends of arrays fill no vector, and rows are not aligned: libraries compute otherwise there."""
    sizes = {"model_channels": 35, "resolution": 64, "channel_mult": (1,) * 5, "num_blocks": 1, "channels_per_head": 35}
    denoiser = trained(NetworkSpec(**TINY | sizes | {"label_dim": 7}))
    prepared = prepare(denoiser, dtype)
    if not pays_to_filter(dtype):
        pytest.skip("this machine does not filter")
    assert (tile_size(denoiser, "cpu"), prepared.at_once) == (1, 8)
    _, sigma, label = inputs(denoiser.spec, batch=10)
    x = torch.randn(10, 3, *side)
    for given in (label, torch.rand(10, 7), None):
        together = prepared(x, sigma, given)
        rows = [slice(i, i + 1) for i in range(10)]
        alone = [prepared(x[row], sigma[row], None if given is None else given[row]) for row in rows]
        assert torch.equal(together, torch.cat(alone))


def test_images_of_another_size_after_the_layout_is_fixed():
    denoiser = trained(NetworkSpec(**TINY))
    x, label = torch.randn(2, 3, 16, 8), torch.tensor([1, 4])
    with torch.no_grad():
        assert relative_error(prepare(denoiser, torch.float32)(x, 1.0, label), denoiser(x, 1.0, label)) < 2e-6


def test_the_default_precision_is_what_the_processor_has():
    assert fastest_dtype("cpu") in (torch.float32, torch.bfloat16)
    assert prepare(trained(NetworkSpec(**TINY))).dtype == fastest_dtype("cpu")
    assert fastest_dtype("meta") == torch.float32


@pytest.mark.parametrize(
    ("machine", "products", "expected"),
    [
        ("x86_64", (), torch.float32),  # AVX-512 without BF16: oneDNN would emulate it
        ("x86_64", ("_is_avx512_bf16_supported",), torch.bfloat16),
        ("AMD64", ("_is_amx_tile_supported",), torch.bfloat16),
        ("aarch64", (), torch.bfloat16),
    ],
)
def test_a_processor_that_would_emulate_bfloat16_computes_in_float32(monkeypatch, machine, products, expected):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in products, raising=False)
    assert fastest_dtype("cpu") == expected


@pytest.mark.skipif(not pays_to_filter(torch.float32), reason="there is no compiler")
@pytest.mark.parametrize("groups", [1, 32])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_branch_that_takes_the_sum_in_doubles_pixels_once(groups, steps):
    """In its first step, whether that is its last too or not; as large as the doubled main path."""
    torch.manual_seed(0)
    operations = [Convolve(MPConv(32, 32, (3, 3), groups=groups)) for _ in range(steps)]
    branch = FoldedBranch(operations, 0.5, Passes(torch.float32, torch.float32, 16, filtered=True), lambda _: 0)
    assert isinstance(branch[-1], FilteredConv if groups == 1 else FusedDepthwise)
    x, main = (torch.randn(2, 32, 8, 8).contiguous(memory_format=torch.channels_last) for _ in range(2))
    found = branch.add(x, [], Sum(main, 0.7, 4.0, torch.float32), upsample=True)
    assert found.shape == (2, 32, 16, 16)
    apart = branch(x, [], upsample=True) + 0.7 * resample(main, "up")
    torch.testing.assert_close(found, apart.clamp(-4, 4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_folded_weight_is_the_effective_one_times_a_factor(dtype):
    """In float32 and in memory of its own, so that more can be multiplied into it."""
    layer = MPConv(20, 12, (3, 3)).to(dtype)
    before = layer.weight.detach().clone()
    gain = torch.tensor(0.7)
    found = fold_weight(layer, gain)
    expected = effective_weight(before, gain)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.float())
    found.zero_()
    assert torch.equal(layer.weight, before)
