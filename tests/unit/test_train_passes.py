"""Networks that train in fewer passes against the same networks as they are written."""

import copy
import math
import statistics

import pytest
import torch

from unitgain.analysis.magnitude import watch
from unitgain.denoiser import Denoiser
from unitgain.layers import MPConv, effective_weight, normalized_once, project_weights
from unitgain.native.training import balance, can_train, fork, join_features, modulate, normalize_pixels
from unitgain.native.weights import can_normalize, project, unit_weight, unit_weights
from unitgain.ops import mp_silu, normalize
from unitgain.train import passes
from unitgain.train.blocks import recompute_blocks
from unitgain.train.passes import FusedEncoderBlock, fuse_passes, split_passes
from unitgain.train.weights import project_together, weights_together

needs_c = pytest.mark.skipif(not can_train(torch.zeros(1, 1, 1, 1)), reason="there is no compiler")

BRANCHES = ["s c m s c", "s d E s P s m d", "m s c s m c", "m m s s d P", "c m"]


def relative_error(found, wanted):
    """Of all gradients together."""
    errors = sum((found[name].double() - exact).square().sum() for name, exact in wanted.items())
    return (errors / sum(exact.square().sum() for exact in wanted.values())).sqrt().item()


def awake(denoiser):
    """Gains that start at zero would hide what is modulated."""
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.ndim == 0:
                parameter.fill_(0.7)
    return denoiser


def gradients(denoiser, x, label, dtype=torch.float32):
    """Output and the gradients of everything, by name."""
    x = x.to(torch.float64 if dtype == torch.float64 else torch.float32, copy=True).requires_grad_()
    denoiser.dtype = dtype
    torch.manual_seed(5)
    if dtype == torch.float64:
        denoiser = denoiser.double()
        y = denoiser.network(x.double(), torch.tensor([-0.3, 0.5]).double(), denoiser.condition(label, 2))
    else:
        y = denoiser.network(x.to(dtype), torch.tensor([-0.3, 0.5]), denoiser.condition(label, 2))
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    y.backward(weights)
    return {"": y.detach(), "x": x.grad, **{name: parameter.grad for name, parameter in denoiser.named_parameters()}}


@pytest.mark.parametrize(
    "changes",
    [
        *({"branch": branch, "decoder_branch": "s c m" if branch == "c m" else branch} for branch in BRANCHES),
        {"design": "plain"},
        {"clip_act": 0.7, "model_channels": 24, "channels_per_head": 12},
    ],
    ids=str,
)
def test_same_output_and_gradients(changes, tiny_spec, monkeypatch):
    """In float32 each is as near to float64 as that of the plain blocks; in bfloat16 all are, in most networks."""
    ratios, sums = [], []
    monkeypatch.setattr(passes, "balance", lambda *given: sums.append(given) or balance(*given))
    for seed in range(5):
        torch.manual_seed(seed)
        plain = awake(Denoiser(tiny_spec.replace(**changes)))
        fused = copy.deepcopy(plain)
        fuse_passes(fused)
        assert any(type(module) is FusedEncoderBlock for module in fused.modules())
        x, label = torch.randn(2, tiny_spec.channels, *tiny_spec.size), torch.tensor([0, 1])
        wanted = gradients(copy.deepcopy(plain), x, label, torch.float64)
        if seed == 0:
            found, written = (gradients(copy.deepcopy(one), x, label) for one in (fused, plain))
            assert bool(sums) == can_train(torch.zeros(1, 1, 1, 1))
            assert found.keys() == wanted.keys()
            scale = max(exact.norm().item() for exact in wanted.values())
            for name, exact in wanted.items():
                error, plain_error = ((one[name].double() - exact).norm().item() for one in (found, written))
                share = 1e-1 if name.endswith("gain") else 1e-2  # that of a gain is a sum, of which most cancels out
                assert error < max(1e-5 * (exact.norm().item() + share * scale), 2 * plain_error), name
        errors = [relative_error(gradients(one, x, label, torch.bfloat16), wanted) for one in (fused, plain)]
        ratios.append(errors[0] / errors[1])
    assert statistics.median(ratios) < 1.2


@needs_c
def test_layers_are_watched_without_changing_a_number(tiny_spec):
    denoiser = awake(Denoiser(tiny_spec))
    fuse_passes(denoiser)
    x, sigma = torch.randn(2, tiny_spec.channels, *tiny_spec.size), torch.ones(2)
    alone = denoiser(x, sigma)
    with watch(denoiser) as probe:
        watched = denoiser(x, sigma)
    assert torch.equal(watched, alone)
    fused = probe.squares.keys()
    split_passes(denoiser)
    with watch(denoiser) as probe:
        denoiser(x, sigma)
    assert probe.squares.keys() == fused


def test_a_hook_at_any_other_part_is_called(tiny_spec):
    denoiser = awake(Denoiser(tiny_spec))
    fuse_passes(denoiser)
    called = []
    for name, module in denoiser.named_modules():
        if ".branch" in name or name.endswith("attention"):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    denoiser(torch.randn(2, tiny_spec.channels, *tiny_spec.size), torch.ones(2))
    parts = {name for name, _ in denoiser.named_modules() if ".branch" in name and "linear" not in name}
    assert parts <= set(called)


def test_undone(tiny_spec):
    plain = Denoiser(tiny_spec)
    denoiser = copy.deepcopy(plain)
    fuse_passes(denoiser)
    assert denoiser.state_dict().keys() == plain.state_dict().keys()
    split_passes(denoiser)
    assert [type(module) for module in denoiser.modules()] == [type(module) for module in plain.modules()]
    assert denoiser.network.mp_join is plain.network.mp_join


@needs_c
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_and_other_images_change_no_bit(dtype):
    x, scale = torch.randn(3, 200, 20, 20).to(dtype), torch.randn(3, 200)

    def results(x, scale, threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        x, scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
        main, active = fork(x, 1.7, 1e-4)
        y = join_features(balance(main, modulate(active, scale, 1.7, True), (0.8, 0.6), 1.5), x, (0.7, 0.9))
        found = [y, *torch.autograd.grad(y.float().square().sum(), (x, scale))]
        torch.set_num_threads(before)
        return found

    one, two, alone = results(x, scale, 1), results(x, scale, 2), results(x[:1], scale[:1], 2)
    assert all(map(torch.equal, one, two))
    assert all(torch.equal(all_of_them[:1], own) for all_of_them, own in zip(one, alone, strict=True))


@needs_c
def test_images_of_two_types_are_taken_in_the_wider_one():
    a, b = torch.randn(2, 24, 5, 5).requires_grad_(), torch.randn(2, 24, 5, 5).bfloat16().requires_grad_()
    for one, other in ((a, b), (b, a)):
        summed, joined = balance(one, other, (0.8, 0.6), math.inf), join_features(one, other, (0.8, 0.6))
        torch.testing.assert_close(summed, 0.8 * one.float() + 0.6 * other.float())
        torch.testing.assert_close(joined, torch.cat([0.8 * one.float(), 0.6 * other.float()], dim=1))
        gradients = torch.autograd.grad(summed.sum() + joined.sum(), (a, b))
        assert [each.dtype for each in gradients] == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(balance(torch.nn.Parameter(a.detach()), a, (0.5, 0.5), math.inf), a)
    with pytest.raises((ValueError, TypeError)):  # which one depends on whether types are checked
        balance(a, b[:, :8], (0.5, 0.5), math.inf)
    with pytest.raises((ValueError, TypeError)):
        join_features(a, b[..., :4], (0.5, 0.5))


@needs_c
def test_one_scale_for_all_images():
    x, scale = torch.randn(4, 40, 3, 3), torch.randn(1, 40).requires_grad_()
    y, plain = modulate(x, scale, 1.0), torch.nn.functional.silu(x * scale[..., None, None])
    torch.testing.assert_close(y, plain)
    found, wanted = (torch.autograd.grad(each.square().sum(), scale)[0] for each in (y, plain))
    torch.testing.assert_close(found, wanted)


@needs_c
def test_more_channels_than_a_pixel_norm_in_c_takes():
    x = torch.randn(1, 4100, 2, 2).requires_grad_()
    main, active = fork(x, 1 / 0.596, 1e-4)
    plain = normalize(x, dim=1)
    torch.testing.assert_close(main, plain)
    torch.testing.assert_close(normalize_pixels(x, 1e-4), plain)
    torch.testing.assert_close(active, mp_silu(plain))
    found, wanted = (torch.autograd.grad(each.square().sum(), x)[0] for each in (active, mp_silu(plain)))
    torch.testing.assert_close(found, wanted)


def test_networks_are_transformed_by_functorch(tiny_spec):
    plain = awake(Denoiser(tiny_spec)).requires_grad_(False)
    fused = copy.deepcopy(plain)
    fuse_passes(fused)
    x, sigma = torch.randn(2, tiny_spec.channels, *tiny_spec.size), torch.ones(2)
    slopes = [torch.func.grad(lambda x, one=one: one(x, sigma).square().sum())(x) for one in (plain, fused)]
    assert torch.equal(slopes[1], slopes[0])


SHAPES = [(5, 3, 3, 3), (16, 16, 3, 3), (7, 33), (1, 1, 1, 1), (40, 24, 1, 1), (6, 1, 5, 5), (4, 3, 3)]


@needs_c
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_unit_weights_against_float64(shape, dtype, layout):
    """Eq. 47 with its gradient, for the weight and a gain; a row of zeros stays one, and has a finite gradient."""
    torch.manual_seed(1)
    weight = torch.randn(shape) * torch.tensor([1.0, 1e-3, 30.0]).repeat(len(shape) * 9)[: shape[0]].view(
        -1, *[1] * (len(shape) - 1)
    )
    if shape[0] > 4:
        weight[4] = 0
    weight = weight.to(memory_format=layout) if weight.ndim == 4 else weight
    factor = 1 / math.sqrt(weight[0].numel())
    ours = weight.clone().requires_grad_(), torch.tensor(0.7, requires_grad=True)
    exact = weight.double().requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    out = unit_weight(ours[0], dtype, factor, ours[1])
    wanted = effective_weight(*exact)
    assert out.dtype == dtype and out.shape == weight.shape
    direction = torch.randn(shape).to(dtype)
    out.backward(direction)
    wanted.backward(direction.double())
    near = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 1e-6}
    torch.testing.assert_close(out.double(), wanted, **near)
    assert torch.isfinite(ours[0].grad).all()
    rows = [row for row in range(shape[0]) if weight[row].any()]  # elsewhere the norm has no gradient
    for row in rows:
        scale = exact[0].grad[row].norm() + direction[row].double().norm() * factor / (1e-4 + weight[row].norm()) * 1e-2
        assert (ours[0].grad[row].double() - exact[0].grad[row]).norm() < 1e-5 * scale
    torch.testing.assert_close(ours[1].grad.double(), exact[1].grad, rtol=1e-4, atol=1e-5)
    assert torch.equal(unit_weight(ours[0], dtype, factor), unit_weight(ours[0], dtype, factor, torch.ones(())))


@needs_c
def test_unit_weights_do_not_depend_on_threads():
    torch.manual_seed(2)
    weight, results = torch.randn(96, 64, 3, 3, requires_grad=True), []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        weight.grad = None
        out = unit_weight(weight, torch.bfloat16, 0.1)
        out.backward(torch.ones_like(out))
        results.append((out.detach(), weight.grad))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@needs_c
@pytest.mark.parametrize("spread", [False, True], ids=["", "spread"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_unit_weights_together_are_those_one_by_one(dtype, spread):
    """To the bit, and to the order of sums where they are channels-last; what is not used gets no gradient."""
    torch.manual_seed(3)
    weights = [torch.randn(shape, requires_grad=True) for shape in [*SHAPES, (32, 32, 3, 3), (3, 17, 3, 5)]]
    gains = [torch.tensor(0.7, requires_grad=True) if index % 2 else None for index in range(len(weights))]
    factors = [1 / math.sqrt(weight[0].numel()) for weight in weights]
    alone = [unit_weight(*each[:1], dtype, *each[1:]) for each in zip(weights, factors, gains, strict=True)]
    together = unit_weights(weights, dtype, factors, gains, spread)
    near = {"rtol": 0, "atol": 0} if not spread else {"rtol": 2**-7 if dtype == torch.bfloat16 else 1e-5, "atol": 1e-6}
    used = [index for index in range(len(weights)) if index != 1]
    sources = [weights[index] for index in used] + [gain for gain in gains[3:] if gain is not None]
    directions = [torch.randn(weights[index].shape).to(dtype) for index in used]
    slopes = [torch.autograd.grad([outs[index] for index in used], sources, directions) for outs in (together, alone)]
    for one, other in [*zip(together, alone, strict=True), *zip(*slopes, strict=True)]:
        torch.testing.assert_close(one, other, **near)
    for out in together:
        assert out.is_contiguous(
            memory_format=torch.channels_last if spread and out.ndim == 4 else torch.contiguous_format
        )
    assert torch.autograd.grad(unit_weights(weights, dtype, factors)[0].sum(), weights[1], allow_unused=True) == (None,)


def test_projection_in_one_call(tiny_spec):
    """As `project_weights`, on layers of the network and others, and of types that C does not take."""
    torch.manual_seed(4)
    ours = torch.nn.ModuleList([Denoiser(tiny_spec), MPConv(5, 3), MPConv(7, 2, (5,)), torch.nn.Linear(3, 3)])
    with torch.no_grad():
        for weight in ours.parameters():
            weight.mul_(3)
    for module in (ours, copy.deepcopy(ours).double()):
        plain = copy.deepcopy(module)
        project_weights(plain)
        project_together(module)
        for one, other in zip(module.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_weights_are_made_again_with_activations(tiny_spec):
    """In the backward pass of what is checkpointed."""
    plain = awake(Denoiser(tiny_spec))
    fuse_passes(plain)
    recomputed = copy.deepcopy(plain)
    recompute_blocks(recomputed)
    x, label = torch.randn(2, tiny_spec.channels, *tiny_spec.size), torch.tensor([0, 1])
    found, wanted = (gradients(one, x, label) for one in (recomputed, plain))
    assert all(torch.equal(found[name], exact) for name, exact in wanted.items())


@needs_c
def test_a_process_without_rows_of_a_weight_projects_those_that_it_has():
    shards = [torch.zeros(0, 5), torch.ones(2, 3), torch.zeros(0, 4, 3, 3)]
    project(shards)
    torch.testing.assert_close(shards[1], torch.ones(2, 3), rtol=1e-3, atol=0)
    assert [len(shard) for shard in shards] == [0, 2, 0]


@needs_c
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_of_a_pass_in_one_call(tiny_spec, dtype):
    """The same output and gradients to the bit, and nothing is left behind."""
    denoiser = awake(Denoiser(tiny_spec))
    fuse_passes(denoiser)
    x, label = torch.randn(2, tiny_spec.channels, *tiny_spec.size), torch.tensor([0, 1])
    wanted = gradients(copy.deepcopy(denoiser), x, label, dtype)
    denoiser.dtype = dtype
    with weights_together(denoiser):
        assert any(getattr(layer, "made", None) is not None for layer in denoiser.modules())
        found = gradients(denoiser, x, label, dtype)
    assert all(getattr(layer, "made", None) is None for layer in denoiser.modules())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], exact) for name, exact in wanted.items())
    with pytest.raises(RuntimeError, match="stop"), weights_together(denoiser):
        raise RuntimeError("stop")
    assert all(getattr(layer, "made", None) is None for layer in denoiser.modules())


@needs_c
def test_other_default_types_change_nothing():
    """What C writes beside results is float32, whatever others would be made of."""
    x, weight = torch.randn(2, 24, 3, 3, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    direction, results = torch.randn(6, 5), []
    for dtype in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            gain = torch.tensor(0.7, dtype=torch.float32, requires_grad=True)
            out = unit_weight(weight, torch.float32, 0.3, gain)
            slopes = torch.autograd.grad(normalize_pixels(x, 1e-4).square().sum(), x)
            results.append([*torch.autograd.grad(out, (weight, gain), direction), *slopes])
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, *results))


@needs_c
def test_weights_of_fused_layers_that_c_does_not_take(tiny_spec):
    """Those of float64, and those that are normalized already, are made as they are written."""
    denoiser = Denoiser(tiny_spec)
    fuse_passes(denoiser)
    layer = next(module for module in denoiser.modules() if isinstance(module, MPConv))
    assert can_normalize(layer.weight, torch.float32)
    with normalized_once(denoiser):
        torch.testing.assert_close(layer.effective(), effective_weight(layer.weight))
        assert not layer.normalized.grad_fn
    x = torch.ones(2, layer.in_channels, *[4] * len(layer.kernel))
    called = torch.func.functional_call(layer, {"weight": layer.weight * 2}, x)
    torch.testing.assert_close(called, layer(x), rtol=1e-3, atol=1e-4)
    wide = copy.deepcopy(layer).double()
    assert torch.equal(wide.effective(), effective_weight(wide.weight))
