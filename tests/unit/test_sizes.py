"""Networks of data of one to three dimensions and any sides: padded inside, free of dimension, alike in all of them."""

import copy

import pytest
import torch
from torch import nn

from unitgain.analysis.buckets import bucket_of
from unitgain.analysis.cost import network_cost
from unitgain.analysis.magnitude import watch
from unitgain.arch import NetworkSpec
from unitgain.arch.configs import edm2_configs, edm2plus_configs
from unitgain.denoiser import Denoiser, Uncertainty
from unitgain.guide import Guided
from unitgain.infer import prepare
from unitgain.layers import MPConv
from unitgain.loss import EDMLoss
from unitgain.ops import crop, mirror, over_pixels, resample
from unitgain.sample import generate, sigma_grid

SIZES = {"signal": (44,), "square": 30, "large": 100, "rectangle": (48, 64), "odd": (13, 22), "volume": (6, 8, 11)}
CONFIGS = edm2_configs() | {f"plus-{name}": spec for name, spec in edm2plus_configs().items()}


def small(config, resolution, **changes):
    return CONFIGS[config].replace(
        **{
            "resolution": resolution,
            "channels": 2,
            "label_dim": 3,
            "model_channels": 16,
            "channel_mult": (1, 2, 2),
            "num_blocks": 1,
            "attn_resolutions": (),
            "channels_per_head": 16,
            "dropout": 0.0,
            **changes,
        }
    )


def opened(denoiser, seed=0):
    """With gains and zeros away from 0, so that every part of the network counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.3)
            elif not parameter.any():
                parameter.normal_(generator=generator).mul_(0.1)
    return denoiser.eval()


def make(config, resolution, **changes):
    torch.manual_seed(0)
    return opened(Denoiser(small(config, resolution, **changes)))


def images(spec, n=2, seed=0):
    return torch.randn(n, spec.channels, *spec.size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(5,), (7, 3), (2, 1), (6, 9, 1), (8, 4)])
def test_mirror_continues_and_crop_undoes(size):
    x = torch.arange(float(torch.tensor(size).prod())).reshape(1, 1, *size)
    y = mirror(x, 4)
    assert y.shape[2:] == tuple(side + -side % 4 for side in size)
    assert torch.equal(crop(y, size), x)
    if all(side > 4 for side in size):
        pads = [pad for side in reversed(size) for pad in (0, -side % 4)]
        assert torch.equal(y, nn.functional.pad(x, pads, mode="reflect"))
    if size == (8, 4):
        assert y is x and crop(y, size) is x


def test_mirrored_noise_keeps_its_magnitude_and_stays_white():
    x = torch.randn(64, 16, 29, 29, generator=torch.Generator().manual_seed(0))
    y = mirror(x, 32)
    assert y[..., 29:].square().mean() == pytest.approx(1, abs=0.03)
    assert resample(y, "down")[:, :, 14:, 14:].square().mean().sqrt() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("config", ["a", "c", "d", "f", "g", "plus-g-bottleneck"])
@pytest.mark.parametrize("kind", ["signal", "square", "odd", "volume"])
def test_output_has_the_size_of_the_input_and_depends_on_all_of_it(config, kind):
    denoiser = make(config, SIZES[kind])
    x = images(denoiser.spec, 1).requires_grad_()
    y = denoiser(x, 0.7, torch.tensor([1]))
    assert y.shape == x.shape
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    assert (grad != 0).all()


def test_nothing_but_the_network_sees_the_padding():
    """The same as padding before it and cropping after it, with c_skip and c_out outside."""
    denoiser = make("g", (13, 22))
    x = images(denoiser.spec)
    seen = denoiser(mirror(x, 4), 0.7)
    assert torch.allclose(denoiser(x, 0.7), crop(seen, (13, 22)), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "kind"),
    [(config, kind) for config in ("g", "plus-g-bottleneck") for kind in SIZES]
    + [(config, kind) for config in ("a", "d", "f") for kind in ("odd", "signal", "volume")],
)
def test_prepared_network_equals_the_plain_one(config, kind):
    denoiser = make(config, SIZES[kind], attn_resolutions=(24, 32, 16))
    x, label = images(denoiser.spec, 3), torch.tensor([0, 2, 1])
    with torch.no_grad():
        expected = denoiser(x, 0.7, label)
    found = prepare(denoiser, torch.float32)(x, 0.7, label)
    assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max().item())


def test_costs_count_the_padded_size():
    square, padded = (network_cost(small("g", size)) for size in (32, 30))
    assert padded.by_resolution == square.by_resolution and list(padded.by_resolution) == ["32x32", "16x16", "8x8"]
    assert padded.parameters == square.parameters
    assert list(network_cost(small("g", (6, 8, 11))).by_resolution) == ["8x8x12", "4x4x6", "2x2x3"]


@pytest.mark.parametrize("config", ["g", "plus-g-bottleneck"])
@pytest.mark.parametrize("size", [(64,), 30, (16, 14, 16)])
def test_magnitudes_are_one_at_initialization(config, size):
    """Of all features of a level, but for modulations, whose gains start at 0."""
    torch.manual_seed(0)
    denoiser = Denoiser(small(config, size, model_channels=32)).eval()
    sigma = torch.logspace(-1.5, 1.5, 8)
    x = images(denoiser.spec, 8)
    with torch.no_grad(), watch(denoiser) as probe:
        denoiser(x * over_pixels((sigma**2 + 0.25).sqrt(), x), sigma, torch.arange(8) % 3)
    levels = {}
    for name, square in probe.squares.items():
        if "modulation" not in name:
            levels.setdefault(bucket_of(name), []).append((square / probe.images[name]).sqrt())
    assert len(levels) == 6
    for name, magnitudes in levels.items():
        assert 0.5 <= torch.cat(magnitudes).mean() <= 2, name


@pytest.mark.parametrize("kind", SIZES)
def test_a_closed_network_keeps_its_input(kind):
    torch.manual_seed(0)
    denoiser = Denoiser(small("g", SIZES[kind])).eval()
    x = images(denoiser.spec)
    for sigma in (0.1, 2.0):
        assert torch.allclose(denoiser(x, sigma), 0.25 / (0.25 + sigma**2) * x, atol=1e-6)


def flattened(volume, plane):
    """The weights of a network of images, in the middle of the last axis of that of volumes, as large as they were."""
    layers = dict(volume.named_modules())
    with torch.no_grad():
        for name, layer in plane.named_modules():
            own = layers[name]
            if isinstance(layer, MPConv):
                own.weight.zero_()
                depth = own.weight.shape[-1] if layer.kernel else 1
                (own.weight[..., depth // 2] if layer.kernel else own.weight).copy_(layer.weight * depth**0.5)
        for name, parameter in plane.named_parameters():
            if not parameter.ndim:
                volume.get_parameter(name).copy_(parameter)
        for name, buffer in plane.named_buffers():
            volume.get_buffer(name).copy_(buffer)
    return volume


def renamed(denoiser, spec, names):
    """The network with the names of levels of another one."""
    levels = dict(zip(denoiser.spec.level_names, names, strict=True))
    for part in (denoiser.network.enc, denoiser.network.dec):
        for name in list(part):
            block = part.pop(name)
            level, _, role = name.partition("_")
            part[f"{levels[level]}_{role}"] = block
    return denoiser


@pytest.mark.parametrize("config", ["g", "plus-g-bottleneck"])
def test_a_network_of_volumes_is_that_of_images_where_nothing_happens_along_the_third_axis(config):
    plane = make(config, (12, 16))
    volume = renamed(make(config, (12, 16, 8)), plane.spec, plane.spec.level_names)
    flattened(volume, plane)
    x, label = images(plane.spec), torch.tensor([0, 2])
    with torch.no_grad():
        expected = plane(x, 0.7, label)
        found = volume(x[..., None].expand(*x.shape, 8), 0.7, label)
    assert torch.allclose(found, expected[..., None].expand_as(found), atol=1e-5)


@pytest.mark.parametrize("config", ["d", "g", "plus-g-bottleneck"])
def test_transposing_a_rectangle_transposes_the_output(config):
    wide = make(config, (13, 22))
    tall = renamed(make(config, (22, 13)), wide.spec, wide.spec.level_names)
    tall.load_state_dict({k: v.mT if v.ndim == 4 else v for k, v in wide.state_dict().items()})
    x, label = images(wide.spec), torch.tensor([0, 2])
    with torch.no_grad():
        assert torch.allclose(tall(x.mT, 0.7, label).mT, wide(x, 0.7, label), atol=1e-5)


@pytest.mark.parametrize("kind", ["signal", "odd", "volume"])
def test_loss_and_samplers_and_guidance_take_any_size(kind):
    main = make("g", SIZES[kind])
    guide = copy.deepcopy(main)
    clean = 0.5 * images(main.spec)
    loss = EDMLoss(-0.4, 1.0)
    sigma, noise = loss.draw(clean, torch.Generator().manual_seed(0))
    result = loss(main, Uncertainty(), clean, sigma, noise, torch.tensor([0, 1]))
    assert result.loss.shape == clean.shape
    result.loss.sum().backward()
    assert all(parameter.grad is not None for parameter in main.parameters())
    guided = Guided(main, opened(guide, seed=1), 1.5)
    alone, together = (
        torch.cat([x for _, _, x in generate(guided, [3, 5], sigma_grid(2), label=1, batch=batch)]) for batch in (1, 2)
    )
    assert alone.shape == (2, *clean.shape[1:]) and torch.equal(alone, together)


def test_attention_looks_at_all_positions_of_a_volume():
    """Far apart along each axis, beyond what convolutions of one level see."""
    spec = NetworkSpec(
        resolution=(16, 16, 16), channels=1, model_channels=16, channel_mult=(1,), num_blocks=1, channels_per_head=16
    )
    denoiser = opened(Denoiser(spec))
    x = torch.randn(1, 1, 16, 16, 16, requires_grad=True)
    denoiser(x, 0.7)[0, 0, 0, 0, 0].backward()
    assert (x.grad != 0).all()
