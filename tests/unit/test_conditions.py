"""Conditions beside a class: optional, magnitude-preserving, and used."""

import copy
import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from unitgain.analysis.buckets import bucket_of
from unitgain.analysis.magnitude import watch
from unitgain.arch import NetworkSpec
from unitgain.arch.conditions import Condition, Image, Scalar, Tokens, Vector
from unitgain.arch.values import Conditions
from unitgain.denoiser import Denoiser, NoUncertainty, tile_size
from unitgain.guide import Guided
from unitgain.infer import prepare
from unitgain.layers import CrossAttention
from unitgain.loss import EDMLoss
from unitgain.ops import over_pixels
from unitgain.sample import generate, sigma_grid
from unitgain.serial import from_dict, to_dict

ALL = (
    Vector(name="style", dim=5, dropout=0.1),
    Scalar(name="age", scale=10.0, features=16),
    Image(name="small", channels=2, dropout=0.2),
    Tokens(name="text", dim=6, dropout=0.1),
)
FAR = dataclasses.replace(ALL[2], mean=280.0, std=10.0)  # from 0
SIZES = {1: (16,), 2: (8, 16), 3: (8, 8, 4)}
SIGMA = torch.tensor([0.3, 2.0, 0.7])


def spec_of(*conditions, dims=2, **changes):
    return NetworkSpec(
        **{
            "resolution": SIZES[dims],
            "channels": 1,
            "label_dim": 3,
            "model_channels": 16,
            "channel_mult": (1, 2),
            "num_blocks": 1,
            "attn_resolutions": (),
            "channels_per_head": 16,
            "conditions": conditions,
            **changes,
        }
    )


def denoiser_of(*conditions, seed=0, **changes):
    torch.manual_seed(seed)
    denoiser = Denoiser(spec_of(*conditions, **changes)).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if parameter.ndim == 0:
            parameter.fill_(0.5)
    return denoiser


def values_of(spec, n=3, seed=1, tokens=4):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    values = {}
    for one in spec.conditions:
        match one:
            case Vector():
                values[one.name] = normal(n, one.dim)
            case Scalar():
                values[one.name] = normal(n) * one.scale
            case Image():
                values[one.name] = normal(n, one.channels, *spec.size) * one.std
            case Tokens():
                values[one.name] = normal(n, tokens, one.dim)
    return values


def x_of(spec, n=3, seed=2):
    return torch.randn(n, spec.channels, *spec.size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("condition", ALL, ids=lambda one: one.kind)
def test_each_condition_is_used_in_any_dimension(condition, dims):
    denoiser = denoiser_of(condition, dims=dims)
    x, values = x_of(denoiser.spec), values_of(denoiser.spec)
    without = denoiser(x, SIGMA)
    told = denoiser(x, SIGMA, Conditions(**values))
    other = denoiser(x, SIGMA, Conditions(**values_of(denoiser.spec, seed=9)))
    assert (told - without).abs().max() > 1e-3 and (told - other).abs().max() > 1e-3


@pytest.mark.parametrize("condition", [*ALL, FAR], ids=lambda one: one.kind)
def test_absence_is_a_mask_is_a_missing_value(condition):
    denoiser = denoiser_of(condition)
    x, values = x_of(denoiser.spec), values_of(denoiser.spec)
    nobody = {name: torch.zeros(3, dtype=torch.bool) for name in values}
    absent = denoiser(x, SIGMA)
    assert torch.equal(absent, denoiser(x, SIGMA, Conditions()))
    torch.testing.assert_close(denoiser(x, SIGMA, Conditions(masks=nobody, **values)), absent, rtol=0, atol=1e-6)
    # A sample's own mask is its own, whatever is in values that are not there.
    first = {name: torch.tensor([True, False, False]) for name in values}
    spoiled = {name: torch.cat([value[:1], torch.full_like(value[1:], math.nan)]) for name, value in values.items()}
    mixed = denoiser(x, SIGMA, Conditions(masks=first, **spoiled))
    torch.testing.assert_close(mixed[1:], absent[1:], rtol=0, atol=1e-6)
    torch.testing.assert_close(mixed[:1], denoiser(x, SIGMA, Conditions(**values))[:1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("there", [True, False], ids=["there", "absent"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("condition", ALL, ids=lambda one: one.kind)
def test_magnitudes_at_initialization(condition, dims, there):
    torch.manual_seed(0)
    denoiser = Denoiser(spec_of(condition, dims=dims, model_channels=32, channels_per_head=32)).eval()
    spec, n = denoiser.spec, 8
    sigma = torch.logspace(-1.5, 1.5, n)
    x = x_of(spec, n)
    told = Conditions(torch.arange(n) % 3, **(values_of(spec, n) if there else {}))
    embeddings = []
    denoiser.network.embedding.register_forward_hook(lambda module, args, output: embeddings.append(output))
    with torch.no_grad(), watch(denoiser) as probe:
        denoiser(x * over_pixels((sigma**2 + 0.25).sqrt(), x), sigma, told)
    levels = {}
    for name, square in probe.squares.items():
        if "modulation" not in name:
            levels.setdefault(bucket_of(name), []).append((square / probe.images[name]).sqrt())
    assert len(levels) == 4
    for name, magnitudes in levels.items():
        assert 0.5 <= torch.cat(magnitudes).mean() <= 2, name
    assert embeddings[0].square().mean().sqrt() == pytest.approx(1, abs=0.3)


def test_at_gains_of_zero_the_denoiser_is_c_skip_x():
    torch.manual_seed(0)
    denoiser = Denoiser(spec_of(*ALL))
    x = x_of(denoiser.spec)
    expected = 0.25 / (SIGMA**2 + 0.25)
    got = denoiser(x, SIGMA, Conditions(torch.tensor([0, 1, 2]), **values_of(denoiser.spec)))
    torch.testing.assert_close(got, expected[:, None, None, None] * x)


def attended(module, x, tokens, mask):
    """Cross-attention, written plainly in float64, a sample at a time."""

    def unit(v):
        return v / (1e-4 + v.square().mean(-1, keepdim=True).sqrt())

    def weight(layer):
        w = layer.weight.double().flatten(1)
        return unit(w) / math.sqrt(w.shape[1])

    result = []
    for image, sequence, there in zip(x.double(), tokens.double(), mask, strict=True):
        c, pixels = len(image), image.flatten(1).T
        if not there.any():
            result.append(image)
            continue
        sequence = unit(sequence[there])
        q = unit((pixels @ weight(module.query).T).reshape(len(pixels), module.heads, -1))
        kv = (sequence @ weight(module.key_value).T).reshape(len(sequence), 2, module.heads, -1)
        k, v = unit(kv[:, 0]), unit(kv[:, 1])
        scores = torch.einsum("phc,thc->hpt", q, k) / math.sqrt(c // module.heads)
        y = torch.einsum("hpt,thc->phc", scores.softmax(-1), v).reshape(len(pixels), c) @ weight(module.proj).T
        t = module.balance
        joined = ((1 - t) * pixels + t * y) / math.hypot(1 - t, t)
        result.append(joined.T.reshape(image.shape))
    return torch.stack(result)


@pytest.mark.parametrize("size", [(7,), (4, 6), (2, 3, 4)])
def test_cross_attention_against_float64(size):
    torch.manual_seed(0)
    module = CrossAttention(32, 16, 6, balance=0.4, dims=len(size))
    x, tokens = torch.randn(3, 32, *size), torch.randn(3, 5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    torch.testing.assert_close(
        module(x, tokens, mask).double(), attended(module, x, tokens, mask), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(module(x, tokens, mask)[2], x[2])
    assert torch.equal(module(x, tokens[:, :0], mask[:, :0]), x)


def test_order_and_padding_of_tokens_mean_nothing():
    denoiser = denoiser_of(ALL[3])
    x, text = x_of(denoiser.spec), values_of(denoiser.spec)["text"]
    told = denoiser(x, SIGMA, Conditions(text=text))
    permuted = denoiser(x, SIGMA, Conditions(text=text[:, [2, 0, 3, 1]]))
    torch.testing.assert_close(permuted, told, rtol=0, atol=1e-5)
    padded = torch.cat([text, torch.full((3, 3, 6), math.inf)], dim=1)
    mask = torch.tensor([[True] * 4 + [False] * 3] * 3)
    torch.testing.assert_close(
        denoiser(x, SIGMA, Conditions(masks={"text": mask}, text=padded)), told, rtol=0, atol=1e-5
    )


def test_sequences_are_attended_to_where_the_spec_says():
    everywhere = denoiser_of(Tokens(name="text", dim=6, resolutions=(16, 8)))
    last = denoiser_of(Tokens(name="text", dim=6))
    assert [name for name, block in everywhere.network.enc.named_children() if len(getattr(block, "cross", ()))] == [
        "8x16_block0",
        "4x8_block0",
    ]
    assert [name for name, block in last.network.dec.named_children() if len(block.cross)] == ["4x8_in0"]


def test_gradients_reach_every_part_after_the_first_step():
    torch.manual_seed(0)
    denoiser = Denoiser(spec_of(*ALL))
    with torch.no_grad():  # the first step opens the last gain and those of the modulations
        for parameter in denoiser.parameters():
            if parameter.ndim == 0:
                parameter.add_(0.01)
    x = x_of(denoiser.spec)
    told = Conditions(torch.tensor([0, 1, 2]), **values_of(denoiser.spec))
    loss = EDMLoss(P_mean=-0.4, P_std=1.0)
    sigma, noise = loss.draw(x, torch.Generator().manual_seed(0))
    loss(denoiser, NoUncertainty(), x, sigma, noise, told).loss.sum().backward()
    without = [name for name, parameter in denoiser.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not without


def test_attention_to_tokens_learns_from_the_first_step():
    """There is no gate in it that begins closed: gradients reach its weights and the tokens at once."""
    torch.manual_seed(0)
    module = CrossAttention(32, 16, 6, balance=0.3, dims=2)
    tokens = torch.randn(2, 5, 6, requires_grad=True)
    (module(torch.randn(2, 32, 4, 6), tokens, torch.ones(2, 5).bool()) * torch.randn(2, 32, 4, 6)).sum().backward()
    for name, gradient in (("tokens", tokens.grad), *((name, one.grad) for name, one in module.named_parameters())):
        assert gradient.square().mean().sqrt() > 1e-4, name


def test_a_smaller_image_is_enlarged_and_a_larger_one_refused():
    denoiser = denoiser_of(ALL[2])
    x = x_of(denoiser.spec)
    small = torch.randn(3, 2, 4, 8)
    large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    told = denoiser(x, SIGMA, Conditions(small=small))
    torch.testing.assert_close(told, denoiser(x, SIGMA, Conditions(small=large)))
    with pytest.raises(ValueError, match="'small' has values of 9x16, larger than the 8x16"):
        denoiser(x, SIGMA, Conditions(small=torch.zeros(3, 2, 9, 16)))


def test_images_far_from_zero_are_told_as_well_as_others():
    near, far = denoiser_of(ALL[2]), denoiser_of(FAR)
    x, small = x_of(near.spec), 0.5 * torch.randn(3, 2, 4, 8)
    told = far(x, SIGMA, Conditions(small=280 + 20 * small))
    torch.testing.assert_close(told, near(x, SIGMA, Conditions(small=small)), rtol=1e-4, atol=1e-4)


def test_values_are_tensors_of_rows():
    with pytest.raises(ValueError, match="condition 'age' is a tensor without sides: expected a tensor with a row"):
        Conditions(age=torch.tensor(1.0))


def test_values_that_are_not_finite_are_not_drawn():
    denoiser = denoiser_of(ALL[1])
    age = torch.tensor([1.0, torch.nan])
    with pytest.raises(ValueError, match="condition 'age' of seed 8 holds NaN"):
        list(generate(denoiser, [7, 8], sigma_grid(2), conditions=Conditions(age=age)))
    masked = Conditions(age=age, masks={"age": torch.tensor([True, False])})
    assert all(part[2].isfinite().all() for part in generate(denoiser, [7, 8], sigma_grid(2), conditions=masked))


def test_the_spec_travels_and_old_files_stay_as_they_were():
    spec = spec_of(*ALL)
    data = json.loads(json.dumps(to_dict(spec)))
    assert from_dict(NetworkSpec, data) == spec
    assert "conditions" not in to_dict(spec_of())
    assert from_dict(NetworkSpec, to_dict(spec_of())) == spec_of()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "vektor", "name": "a", "dim": 3}, "did you mean 'vector'"),
        ({"name": "a", "dim": 3}, "unknown kind None"),
        ("vector", "unknown kind None"),
        ({"kind": "vector", "name": "a"}, "'dim' is missing"),
        ({"kind": "vector", "name": "a", "dim": 0}, "dim = 0"),
        ({"kind": "vector", "name": "a", "dim": 10**9}, "dim = 1000000000"),
        ({"kind": "vector", "name": "a.b", "dim": 3}, "must be like age"),
        ({"kind": "vector", "name": "label", "dim": 3}, "meaning of its own"),
        ({"kind": "scalar", "name": "a", "scale": 0.0}, "scale = 0.0"),
        ({"kind": "image", "name": "a", "channels": 1, "std": -1.0}, "std = -1.0"),
        ({"kind": "tokens", "name": "a", "dim": 2, "balance": 2.0}, "balance = 2.0"),
        ({"kind": "tokens", "name": "a", "dim": 2, "dropout": 1.0}, "dropout = 1.0"),
    ],
)
def test_declarations_that_make_no_sense_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Condition.from_json(data, "conditions[0]")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"design": "plain"}, "magnitude-preserving"),
        ({"conditions": (ALL[0], ALL[0])}, "two conditions are named style"),
        ({"conditions": (Tokens(name="text", dim=2, resolutions=(5,)),)}, "levels are"),
        (
            {"channels_per_head": 32, "conditions": (Tokens(name="text", dim=2, resolutions=(16,)),)},
            "must divide the 16",
        ),
    ],
)
def test_specs_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        spec_of(**{"conditions": ALL[:1], **changes})


@pytest.mark.parametrize(
    ("values", "masks", "message"),
    [
        ({"stile": torch.zeros(3, 5)}, {}, "did you mean 'style'"),
        ({"style": torch.zeros(3, 4)}, {}, r"expected \[N, 5\], with N = 3"),
        ({"style": torch.zeros(2, 5)}, {}, "with N = 3"),
        ({"age": torch.zeros(3, 1)}, {}, r"expected \[N\]"),
        ({"small": torch.zeros(3, 2, 8)}, {}, "'small' has values"),
        ({"text": torch.zeros(3, 6)}, {}, r"expected \[N, T, 6\]"),
        ({"style": torch.zeros(3, 5), "age": torch.zeros(2)}, {}, "different numbers of samples"),
        ({"age": torch.zeros(3)}, {"style": torch.ones(3).bool()}, "a mask for 'style'"),
        ({"age": torch.zeros(3)}, {"age": torch.ones(3)}, "expected bool"),
        ({"age": torch.zeros(3)}, {"age": torch.ones(2).bool()}, "expected bool"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, masks, message):
    denoiser = denoiser_of(*ALL)
    with pytest.raises(ValueError, match=message):
        denoiser(x_of(denoiser.spec), SIGMA, Conditions(masks=masks, **values))


def test_a_network_without_conditions_refuses_them():
    denoiser = denoiser_of()
    x, label = x_of(denoiser.spec), torch.tensor([0, 1, 2])
    assert torch.equal(denoiser(x, SIGMA, Conditions(label)), denoiser(x, SIGMA, label))
    with pytest.raises(ValueError, match="no condition 'age'"):
        denoiser(x, SIGMA, Conditions(label, age=torch.zeros(3)))


def test_guidance_leaves_out_what_was_dropped_in_training():
    main = denoiser_of(*ALL)
    main.label_dropout = 0.1
    x, values, label = x_of(main.spec), values_of(main.spec), torch.tensor([0, 1, 2])
    told = Conditions(label, **values)

    def mixed(other, weight=2.0):
        return weight * main(x, SIGMA, told) + (1 - weight) * other

    # age has no dropout, so that it stays
    got = Guided(main, None, 2.0)(x, SIGMA, told)
    torch.testing.assert_close(got, mixed(main(x, SIGMA, Conditions(age=values["age"]))))
    text = Guided(main, None, 2.0, without=["text"])(x, SIGMA, told)
    rest = {name: value for name, value in values.items() if name != "text"}
    torch.testing.assert_close(text, mixed(main(x, SIGMA, Conditions(label, **rest))))
    with pytest.raises(ValueError, match="never trained without age"):
        Guided(main, None, 2.0, without=["age"])
    with pytest.raises(ValueError, match="not told"):
        Guided(main, None, 2.0, without=["size"])


def test_a_guide_may_lack_conditions():
    main, guide = denoiser_of(*ALL), denoiser_of(ALL[1], seed=1, label_dim=0)
    x, values, label = x_of(main.spec), values_of(main.spec), torch.tensor([0, 1, 2])
    told = Conditions(label, **values)
    expected = 2 * main(x, SIGMA, told) - guide(x, SIGMA, Conditions(age=values["age"]))
    torch.testing.assert_close(Guided(main, guide, 2.0)(x, SIGMA, told), expected)
    plain = denoiser_of(seed=1)
    expected = 2 * main(x, SIGMA, told) - plain(x, SIGMA, label)
    torch.testing.assert_close(Guided(main, plain, 2.0)(x, SIGMA, told), expected)
    with pytest.raises(ValueError, match="same conditions or fewer"):
        Guided(main, denoiser_of(Scalar(name="age", scale=3.0)), 2.0)


@pytest.mark.parametrize("ready", [False, True], ids=["as trained", "prepared"])
def test_samples_do_not_depend_on_their_neighbours(ready):
    denoiser = denoiser_of(*ALL)
    denoiser = prepare(denoiser, torch.float32) if ready else denoiser
    told = Conditions(**values_of(denoiser.spec, 5))
    sigmas = sigma_grid(2)

    def drawn(seeds, conditions, batch):
        return torch.cat(
            [images for _, _, images in generate(denoiser, seeds, sigmas, conditions=conditions, batch=batch)]
        )

    together = drawn(range(5), told, 5)
    assert torch.equal(together, drawn(range(5), told, 2))
    assert torch.equal(together[3:4], drawn([3], told[3:4], 1))
    assert not torch.equal(together, drawn(range(5), None, 5))
    with pytest.raises(ValueError, match="conditions of 5 samples for 2 seeds"):
        drawn(range(2), told, 2)


@pytest.mark.parametrize("condition", ALL, ids=lambda one: one.kind)
def test_samples_do_not_depend_on_how_many_tiles_are_evaluated_together(condition):
    """Libraries sum in another order at another batch size; a prepared network takes several tiles at a time."""
    size = {"resolution": (64, 64), "model_channels": 32, "channels_per_head": 32}
    denoiser = prepare(denoiser_of(condition, **size), torch.float32)
    told, tile = Conditions(torch.arange(8) % 3, **values_of(denoiser.spec, 8, tokens=9)), tile_size(denoiser, "cpu")
    assert tile < 8

    def drawn(batch):
        parts = generate(denoiser, range(8), sigma_grid(2), conditions=told, batch=batch)
        return torch.cat([images for *_, images in parts])

    assert torch.equal(drawn(8), drawn(tile))


@pytest.mark.parametrize("ready", [False, True], ids=["as trained", "prepared"])
def test_many_images_are_guided_away_from_nothing_at_all(ready):
    """Of what was dropped in training nothing is left, for more images than a prepared network takes at a time."""
    main = denoiser_of(ALL[3], channel_mult=(1,))
    main.label_dropout, n = 0.1, 200
    main = prepare(main, torch.float32) if ready else main
    x, told = x_of(main.spec, n), Conditions(torch.arange(n) % 3, **values_of(main.spec, n))
    expected = 2 * main(x, 1.0, told) - main(x, 1.0)
    torch.testing.assert_close(Guided(main, None, 2.0)(x, 1.0, told), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepared_networks_agree(dtype):
    denoiser = denoiser_of(*ALL)
    x, told = x_of(denoiser.spec), Conditions(torch.tensor([0, 1, 2]), **values_of(denoiser.spec))
    expected = copy.deepcopy(denoiser)(x, SIGMA, told)
    error = (prepare(denoiser, dtype)(x, SIGMA, told) - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype == torch.float32 else 2e-2)


def evaluations(denoiser, told, steps):
    """Multiply-accumulates of drawing in so many steps."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        list(generate(denoiser, range(3), sigma_grid(steps), conditions=told, label=0))
    return counter.get_total_flops()


def test_a_prepared_network_reads_conditions_once_for_all_noise_levels():
    """What a step costs does not depend on what tokens, vectors and amounts take to be read."""
    spec = {"dim": 512, "resolutions": (16, 8)}
    denoiser = denoiser_of(Tokens(name="text", **spec), Vector(name="style", dim=4096))
    told = Conditions(**values_of(denoiser.spec, tokens=64))
    reading = 3 * 64 * 512 * 2 * (16 + 16 + 16 + 32) * 2  # of tokens, by some of the blocks that attend, at least

    def step(network, conditions):
        return evaluations(network, conditions, 4) - evaluations(network, conditions, 3)

    plain, ready = denoiser, prepare(denoiser, torch.float32)
    assert step(plain, told) > 2 * reading
    few = step(ready, told)
    assert few < step(plain, told) - 2 * reading


def test_what_is_kept_of_conditions_is_theirs_alone():
    denoiser = prepare(denoiser_of(*ALL), torch.float32)
    x, label = x_of(denoiser.spec), torch.tensor([0, 1, 2])
    first, second = (Conditions(label, **values_of(denoiser.spec, seed=seed)) for seed in (1, 2))
    alone = [denoiser(x, SIGMA, Conditions(one.label, **one.values)) for one in (first, second)]
    for _ in range(2):
        for one, expected in zip((first, second), alone, strict=True):
            assert torch.equal(denoiser(x, SIGMA, one), expected)
    other = prepare(denoiser_of(*ALL, seed=5), torch.float32)  # another network reads them anew
    assert torch.equal(other(x, SIGMA, first), other(x, SIGMA, Conditions(label, **first.values)))
    with pytest.raises(ValueError, match="with N = 2"):
        denoiser(x[:2], 1.0, first.with_label(None))
