"""Networks that run on kernels against the same networks without them."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from conftest import relative_error
from triton_tests import DEVICE, image, needs_triton, weights_like

from unitgain.analysis.magnitude import watch
from unitgain.arch.block import Branch, DecoderBlock, EncoderBlock
from unitgain.arch.unet import build
from unitgain.denoiser import Denoiser
from unitgain.infer import prepare
from unitgain.kernels import depthwise, functions, fuse, ready, reference, unfuse
from unitgain.kernels.fuse import FusedBranch
from unitgain.layers import MPConv
from unitgain.train import Execution, Microbatch, TrainState, train_step


@pytest.fixture
def spec(tiny_spec):
    return tiny_spec.replace(
        resolution=2, model_channels=8, channel_mult=(1,), attn_resolutions=(2,), branch="s d E s P s m d", expansion=2
    )


@pytest.fixture
def kernels_only(monkeypatch):
    """Fails where the reference convolves in the place of a kernel."""
    monkeypatch.setattr(functions, "reference", None)


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
        {"branch": "s d E s P s m d"},
        {"branch": "s d m s d P", "design": "plain"},
        {"branch": "m m s s d P s m", "clip_act": 0.5},
        {"branch": "s m s m m d P", "clip_act": 0.5},
    ],
    ids=str,
)
def test_a_block(kind, changes, spec, kernels_only):
    changes = {**changes, "decoder_branch": changes.get("branch", spec.branch)}
    block = awake(kind(spec.replace(**changes), 8, 16, attention=kind is EncoderBlock)).to(
        memory_format=torch.channels_last
    )
    fused = fuse(copy.deepcopy(block))
    x = torch.randn(2, 8, 2, 3).contiguous(memory_format=torch.channels_last)
    same_gradients(block, fused, x, torch.randn(2, spec.emb_channels))


@needs_triton
def test_a_network_keeps_its_parameters_and_their_gradients(spec, kernels_only):
    network = awake(build(spec))
    fused = fuse(copy.deepcopy(network))
    assert fuse(fused) is fused
    assert any(type(module) is FusedBranch for module in fused.modules())
    assert fused.state_dict().keys() == network.state_dict().keys()
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
def test_layers_that_kernels_do_not_know(spec, new_tokens, monkeypatch):
    block = awake(EncoderBlock(spec.replace(branch="s m b s d g m i"), 8, 8)).to(memory_format=torch.channels_last)
    same_gradients(block, fuse(copy.deepcopy(block)), image(2, 8, 2, 3).detach(), torch.randn(2, spec.emb_channels))


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


COMPILED = """
import torch
from unitgain.arch import NetworkSpec
from unitgain.arch.block import Branch
from unitgain.kernels import fuse

sizes = {"resolution": 2, "channels": 1, "model_channels": 8, "channel_mult": (1,), "num_blocks": 1}
branch = fuse(Branch(NetworkSpec(**sizes, channels_per_head=8), ("m", "s", "d", "s", "m"), 2, 2))
with torch.no_grad():
    for parameter in branch.parameters():
        if not parameter.ndim:
            parameter.fill_(0.7)
x = torch.randn(1, 2, 1, 1).contiguous(memory_format=torch.channels_last).requires_grad_()
emb, found = torch.randn(1, 8), []
for run in (branch, torch.compile(branch, fullgraph=True, backend="aot_eager")):
    x.grad = None
    y = run(x, emb)
    y.sum().backward()
    found.append((y, x.grad))
for eager, compiled in zip(*found):
    assert (compiled - eager).norm() <= 1e-6 * eager.norm()
print("the same")
"""


@needs_triton
def test_a_compiled_branch_has_no_break():
    """In a process of its own: shapes that are checked while they are traced confuse the compiler."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr


def test_without_triton_nothing_is_fused_and_the_error_says_what_to_install(spec, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    block = EncoderBlock(spec, 8, 8)
    with pytest.raises(ImportError, match=r"triton is not installed: pip install 'unitgain\[kernels\]'"):
        fuse(block)
    assert type(block.branch) is Branch
    monkeypatch.setattr(ready, "available", lambda: False)
    x, weight = torch.randn(1, 3, 2, 2).contiguous(memory_format=torch.channels_last), torch.randn(3, 1, 3, 3)
    assert torch.equal(depthwise(x, weight), reference.depthwise(x, weight))


@needs_triton
def test_networks_that_cannot_be_fused_are_refused_and_left_alone(tiny_spec, spec):
    for other in (tiny_spec.replace(design="adm", model_channels=32), tiny_spec):
        with pytest.raises(ValueError, match="no depthwise convolutions"):
            fuse(build(other))
    branches = torch.nn.ModuleList([Branch(spec, spec.tokens, 8, 8), Branch(spec, spec.tokens, 8, 8)])
    branches[1].__class__ = type("FSDPBranch", (Branch,), {})
    with pytest.raises(ValueError, match=r"has become a FSDPBranch.*before FSDP2"):
        fuse(branches)
    assert type(branches[0]) is Branch


@needs_triton
def test_training_with_kernels_gives_the_same_losses(tiny_recipe, spec):
    """The step knows nothing of them; weights normalized once for all microbatches too."""
    recipe = tiny_recipe.replace(network=spec.replace(channels=1, label_dim=0), batch=4)
    losses = []
    for kernels in (False, True):
        torch.manual_seed(0)
        state = TrainState.start(recipe, DEVICE, execution=Execution(kernels=kernels), normalize_once=True)
        awake(state.denoiser)
        assert any(isinstance(module, FusedBranch) for module in state.denoiser.modules()) == kernels
        clean, noise = 0.5 * torch.randn(4, 1, 2, 2, device=DEVICE), torch.randn(4, 1, 2, 2, device=DEVICE)
        sigma = torch.rand(4, device=DEVICE) + 0.1
        halves = [Microbatch(clean=clean[i : i + 2], sigma=sigma[i : i + 2], noise=noise[i : i + 2]) for i in (0, 2)]
        losses.append([train_step(state, recipe, halves).loss for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1][2] != losses[1][0]
