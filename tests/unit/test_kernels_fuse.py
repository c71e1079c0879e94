"""Networks that run on kernels against the same networks without them."""

import copy
import re
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch
from conftest import relative_error
from torch.utils._python_dispatch import TorchDispatchMode
from triton_tests import DEVICE, image, needs_triton, results, weights_like

from unitgain.analysis.magnitude import watch
from unitgain.arch.block import Branch, DecoderBlock, EncoderBlock, Modulation
from unitgain.arch.ladder import edm2, edm2plus
from unitgain.arch.unet import build
from unitgain.denoiser import Denoiser
from unitgain.infer import prepare
from unitgain.kernels import functions, fuse, pixel_norm, ready, reference, unfuse
from unitgain.kernels.fuse import FusedBranch, FusedEncoderBlock
from unitgain.layers import MPConv
from unitgain.train import Microbatch, TrainState, train_step


@pytest.fixture
def spec(tiny_spec):
    return tiny_spec.replace(
        resolution=2, model_channels=8, channel_mult=(1,), attn_resolutions=(2,), branch="s d E s P s m d", expansion=2
    )


def awake(module):
    """Gains that start at zero would hide what is modulated."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 0:
                parameter.fill_(0.7)
    return module.to(DEVICE)


def same_gradients(plain, fused, *inputs):
    """Output and every parameter's gradient, by name, against float64; the fused module errs no more than float32."""
    found = []
    for module, dtype in ((fused, torch.float32), (copy.deepcopy(plain).double(), torch.float64)):
        torch.manual_seed(5)
        y = module(*(value.to(DEVICE, dtype) for value in inputs))
        y.backward(weights_like(y))
        found.append({"": y.detach(), **{name: parameter.grad for name, parameter in module.named_parameters()}})
    assert found[0].keys() == found[1].keys()
    scale = max(value.norm().item() for value in found[1].values())
    for name, wanted in found[1].items():
        error = (found[0][name].double() - wanted).norm().item()
        assert error < 1e-5 * (wanted.norm().item() + 1e-2 * scale), name


@needs_triton
@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
@pytest.mark.parametrize(
    "changes",
    [
        {"branch": "s c m s c"},
        {"branch": "s c m s c", "design": "plain"},
        {"branch": "m m s s d P s m", "clip_act": 0.5},
        {"branch": "s m s m m d P", "clip_act": 0.5},
    ],
    ids=str,
)
def test_a_block(kind, changes, spec, monkeypatch):
    monkeypatch.setattr(functions, "reference", None)  # nothing but kernels may run
    changes = {**changes, "decoder_branch": changes.get("branch", spec.branch)}
    block = awake(kind(spec.replace(**changes), 8, 16, attention=kind is EncoderBlock)).to(
        memory_format=torch.channels_last
    )
    fused = fuse(copy.deepcopy(block))
    x = torch.randn(2, 8, 2, 3).contiguous(memory_format=torch.channels_last)
    same_gradients(block, fused, x, torch.randn(2, spec.emb_channels))


@needs_triton
def test_a_network_keeps_its_parameters_and_their_gradients(spec, monkeypatch):
    network = awake(build(spec))
    fused = fuse(copy.deepcopy(network))
    assert fuse(fused) is fused
    assert any(type(module) is FusedEncoderBlock for module in fused.modules())
    assert fused.state_dict().keys() == network.state_dict().keys()
    monkeypatch.setattr(functions, "reference", None)  # nothing but kernels may run
    same_gradients(network, fused, torch.randn(1, 1, 2, 2), torch.randn(1), torch.eye(3)[:1])
    unfuse(fused)
    assert [type(module) for module in fused.modules()] == [type(module) for module in network.modules()]


@needs_triton
def test_dropout_stays_where_it_is(spec):
    spec = spec.replace(dropout=0.5)
    branch = awake(Branch(spec, ("m", "s", "d"), 4, 4))
    fused = fuse(copy.deepcopy(branch))
    x, emb = image(1, 4, 2, 2).detach(), torch.randn(1, spec.emb_channels, device=DEVICE)
    for training in (True, False):
        torch.manual_seed(1)
        wanted = branch.train(training)(x, emb)
        torch.manual_seed(1)
        assert relative_error(fused.train(training)(x, emb), wanted) < 1e-6


@needs_triton
def test_hooks_see_every_layer(spec):
    fused = fuse(torch.nn.ModuleDict({"enc": torch.nn.ModuleDict({"2x2_block0": EncoderBlock(spec, 8, 8)})})).to(DEVICE)
    block = fused["enc"]["2x2_block0"]
    with watch(fused) as probe:
        block(image(1, 8, 2, 2).detach(), torch.randn(1, spec.emb_channels, device=DEVICE))
    layers = [name for name, layer in fused.named_modules() if isinstance(layer, MPConv) and "modulation" not in name]
    assert set(layers) <= set(probe.squares)


@needs_triton
def test_a_fused_denoiser_is_prepared_like_any_other(spec):
    denoiser = Denoiser(spec)
    awake(denoiser)
    x, label = torch.randn(1, 1, 2, 2, device=DEVICE), torch.tensor([1], device=DEVICE)
    wanted = prepare(denoiser, dtype=torch.float32)(x, 1.0, label)
    assert torch.equal(prepare(fuse(denoiser), dtype=torch.float32)(x, 1.0, label), wanted)


@needs_triton
def test_a_compiled_branch_has_no_break(spec, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the checker itself cannot be compiled
    branch = fuse(awake(Branch(spec, ("m", "s", "d", "s"), 2, 2)))
    x, emb = image(1, 2, 1, 2).detach(), torch.randn(1, spec.emb_channels, device=DEVICE)
    wanted = results(branch, [x, emb])
    compiled = torch.compile(branch, fullgraph=True, backend="aot_eager")
    for value, eager in zip(results(compiled, [x, emb]), wanted, strict=True):
        assert relative_error(value, eager) < 1e-6


def test_without_triton_nothing_is_fused_and_the_error_says_what_to_install(spec, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    block = EncoderBlock(spec, 8, 8)
    with pytest.raises(ImportError, match=r"triton is not installed: pip install 'unitgain\[kernels\]'"):
        fuse(block)
    assert type(block) is EncoderBlock
    monkeypatch.setattr(ready, "available", lambda: False)
    x = torch.randn(1, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixel_norm(x), reference.pixel_norm(x))


@needs_triton
def test_networks_that_cannot_be_fused_are_refused_and_left_alone(tiny_spec, spec):
    with pytest.raises(ValueError, match="no residual blocks made of tokens"):
        fuse(build(tiny_spec.replace(design="adm", model_channels=32)))
    blocks = torch.nn.ModuleList([EncoderBlock(spec, 8, 8), EncoderBlock(spec, 8, 8)])
    blocks[1].__class__ = type("FSDPEncoderBlock", (EncoderBlock,), {})
    with pytest.raises(ValueError, match=r"has become a FSDPEncoderBlock.*before FSDP2"):
        fuse(blocks)
    assert type(blocks[0]) is EncoderBlock
    assert type(blocks[0].branch) is Branch


def test_fusing_is_a_change_of_class_and_back(spec):
    assert issubclass(FusedBranch, Branch)
    assert issubclass(FusedEncoderBlock, EncoderBlock)
    scale = Modulation(3, spec.emb_channels).scale(torch.randn(2, spec.emb_channels))
    assert scale.shape == (2, 3)
    assert torch.equal(scale, torch.ones(2, 3))  # the gain starts at zero


class Traffic(TorchDispatchMode):
    """Bytes of images that operations read and write; each operation touches each of its tensors once.

    Dense convolutions are left out, as nothing changes there.
    """

    def __init__(self, size):
        super().__init__()
        self.size, self.bytes = size, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        dense = "convolution" in function.name() and args[-2 if "backward" in function.name() else -1] == 1
        aliases = [value.alias_info for value in function._schema.returns]
        views = any(alias is not None and not alias.is_write for alias in aliases)
        if not (dense or views):
            for value in (*args, *(found if isinstance(found, tuple) else (found,))):
                if isinstance(value, torch.Tensor) and value.shape[2:] == self.size and value.shape[1] > 1:
                    self.bytes += value.nbytes
        return found


@needs_triton
@pytest.mark.parametrize(("name", "make"), [("EDM2", edm2), ("EDM2+", edm2plus)])
def test_traffic_is_what_the_documentation_says(name, make):
    text = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")
    row = re.search(rf"\| {re.escape(name)} \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", text)
    spec = make("xxs").replace(model_channels=8, channels_per_head=8)
    found = []
    for block in (EncoderBlock(spec, 8, 8), fuse(EncoderBlock(spec, 8, 8))):
        x = image(1, 8, 2, 2, dtype=torch.bfloat16)
        emb = torch.randn(1, spec.emb_channels, device=DEVICE)
        with Traffic(x.shape[2:]) as forward:
            y = block.to(DEVICE, memory_format=torch.channels_last)(x, emb)
        gradient = weights_like(y).contiguous(memory_format=torch.channels_last)
        with Traffic(x.shape[2:]) as backward:
            y.backward(gradient)
        found += [forward.bytes / x.numel(), backward.bytes / x.numel()]
    documented = [int(number) for number in row.groups()]
    assert found[2:] == documented[2:]
    assert found[:2] == pytest.approx(documented[:2], rel=0.1)  # what PyTorch does may change with its version


@needs_triton
def test_training_with_kernels_gives_the_same_losses(tiny_recipe, spec):
    """The step knows nothing of them; weights normalized once for all microbatches too."""
    recipe = tiny_recipe.replace(network=spec.replace(channels=1, label_dim=0), batch=4)
    losses = []
    for kernels in (False, True):
        torch.manual_seed(0)
        state = TrainState.start(recipe, DEVICE, kernels=kernels, normalize_once=True)
        awake(state.denoiser)
        assert any(isinstance(module, FusedBranch) for module in state.denoiser.modules()) == kernels
        clean, noise = 0.5 * torch.randn(4, 1, 2, 2, device=DEVICE), torch.randn(4, 1, 2, 2, device=DEVICE)
        sigma = torch.rand(4, device=DEVICE) + 0.1
        halves = [Microbatch(clean=clean[i : i + 2], sigma=sigma[i : i + 2], noise=noise[i : i + 2]) for i in (0, 2)]
        losses.append([train_step(state, recipe, halves).loss for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1][2] != losses[1][0]
