"""Branches as tokens: widths follow from the sequence, and a sequence that makes no sense is refused at its token."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unitgain.arch import NetworkSpec, build
from unitgain.arch.configs import edm2plus_configs
from unitgain.arch.tokens import TOKENS, check_tokens, steps


def caret_token(message):
    """The token that the caret of an error points at."""
    line, pointer = message.splitlines()[-2:]
    start, length = pointer.index("^"), pointer.count("^")
    return line[start : start + length]


def test_widths_of_edm2plus():
    tokens = ("s", "d", "E", "s", "P", "m", "s", "d")
    widths = [step.out_channels for step in steps(tokens, 20, 8, 4)]
    assert widths == [20, 20, 32, 32, 8, 8, 8, 8]


@given(st.lists(st.sampled_from(sorted(TOKENS)), min_size=1, max_size=8), st.booleans())
def test_a_branch_that_passes_ends_with_the_output_channels_and_is_modulated(tokens, encoder):
    tokens = tuple(tokens)
    try:
        check_tokens(tokens, starts_at_output=encoder)
    except ValueError as error:
        assert caret_token(str(error)) in tokens
        return
    made = list(steps(tokens, 8 if encoder else 20, 8, 3))
    assert made[-1].out_channels == 8
    assert "m" in tokens
    assert all(after.in_channels == before.out_channels for before, after in itertools.pairwise(made))


@pytest.mark.parametrize(
    ("branch", "message", "token"),
    [
        ("s d E s x m s P", "unknown token 'x' at position 4; known: s", "x"),
        ("s dE s P m", "unknown token 'dE' at position 1: put spaces between tokens", "dE"),
        ("s d E s P s d", "no modulation", "d"),
        ("s c s c E m", "never projected back", "E"),
        ("s m s", "no convolution: put in a c", "s"),
    ],
)
def test_errors_point_at_the_token(tiny_spec, branch, message, token):
    with pytest.raises(ValueError, match=message) as caught:
        tiny_spec.replace(branch=branch)
    assert str(caught.value).startswith(f"NetworkSpec.branch = {branch!r} ")
    assert caret_token(str(caught.value)) == token


def test_decoder_must_reach_the_output_channels(tiny_spec):
    with pytest.raises(ValueError, match=r"never reaches the block's output channels in the decoder") as caught:
        tiny_spec.replace(branch="s d m s d")
    assert caret_token(str(caught.value)) == "d"
    with pytest.raises(ValueError, match=r"NetworkSpec.decoder_branch = 's d m'"):
        tiny_spec.replace(branch="s d m s d", decoder_branch="s d m")
    assert tiny_spec.replace(branch="s d m s d", decoder_branch="s d P m s d")


def test_empty_branches_and_fields_out_of_range(tiny_spec):
    for changes, message in [
        ({"branch": " "}, "NetworkSpec.branch = ' ' is empty"),
        ({"kernel": 4}, "NetworkSpec.kernel = 4: must be odd"),
        ({"expansion": 0}, "NetworkSpec.expansion = 0: must be 1 to 64"),
        ({"design": "adm", "branch": "s d E s P m s d"}, "design='adm' has the ADM block"),
    ]:
        with pytest.raises(ValueError, match=message):
            tiny_spec.replace(**changes)


def test_parameters_of_a_block_follow_from_its_tokens(tiny_spec):
    spec = tiny_spec.replace(branch="m s d E s P s d", expansion=3, kernel=5)
    block = build(spec).get_submodule("dec.8x8_block0.branch")
    shapes = {name: tuple(parameter.shape) for name, parameter in block.named_parameters()}
    assert shapes == {
        "modulation0.linear.weight": (24, 16),  # 16 channels from below and 8 of the skip
        "modulation0.gain": (),
        "depthwise0.weight": (24, 1, 5, 5),
        "expand0.weight": (24, 24, 1, 1),  # 3 x the 8 channels of the output, whatever comes in
        "project0.weight": (8, 24, 1, 1),
        "depthwise1.weight": (8, 1, 5, 5),
    }


@pytest.mark.parametrize("branch", [config.branch for config in edm2plus_configs().values()])
def test_dropout_sits_before_the_last_convolution(tiny_spec, branch):
    if branch == "s d m s d":
        spec = tiny_spec.replace(branch=branch, decoder_branch="s d P m s d", dropout=0.5)
    else:
        spec = tiny_spec.replace(branch=branch, dropout=0.5)
    names = [name for name, _ in build(spec).get_submodule("enc.4x4_block0.branch").named_children()]
    learned = [name for name in names if name.startswith(("conv", "depthwise", "expand", "project"))]
    assert names[names.index("dropout0") + 1] == learned[-1]
    assert sum(name.startswith("dropout") for name in names) == 1


def test_a_modulation_moved_by_one_token_is_another_function(tiny_spec):
    outputs = []
    for branch in ("s c m s c", "s c s m c"):
        torch.manual_seed(1)
        network = build(tiny_spec.replace(branch=branch))
        for name, parameter in network.named_parameters():
            if name.endswith("gain"):
                parameter.data.fill_(1.0)
        outputs.append(
            network(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2)), torch.zeros(2), None)
        )
    assert not torch.allclose(*outputs)


def test_every_spec_of_the_configs_is_a_spec():
    assert all(isinstance(spec, NetworkSpec) for spec in edm2plus_configs().values())
