"""Guidance against Eq. 152 by hand, and where the guide is evaluated."""

import pytest
import torch

from unitgain.arch import NetworkSpec
from unitgain.checkpoint.snapshot import SnapshotHeader, write_snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser
from unitgain.guide import Guided, PerClass
from unitgain.hub import load
from unitgain.infer import prepare
from unitgain.serial import to_dict

SPEC = NetworkSpec(
    resolution=8, channels=1, label_dim=3, model_channels=8, channel_mult=(1, 2), num_blocks=1, channels_per_head=8
)
LABEL = torch.tensor([0, 1, 2, 1])
X = torch.linspace(-1, 1, 4 * 64).reshape(4, 1, 8, 8)


def network(seed=0, sigma_data=0.5, **changes):
    torch.manual_seed(seed)
    denoiser = Denoiser(SPEC.replace(**changes), sigma_data).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if parameter.ndim == 0:
            parameter.fill_(0.5)
    return denoiser


class Counted(Denoiser):
    """A denoiser that notes the noise levels and labels of each image it is given."""

    def __init__(self, spec):
        super().__init__(spec)
        self.seen = []

    def forward(self, x, sigma, label=None):
        levels = torch.as_tensor(sigma).reshape(-1).expand(len(x)).tolist()
        self.seen += zip(levels, [None] * len(x) if label is None else label.tolist(), strict=True)
        return super().forward(x, sigma, label)


@pytest.fixture(scope="module")
def main():
    return network()


@pytest.fixture
def guide():
    counted = Counted(SPEC)
    counted.load_state_dict(network(seed=1).state_dict())
    return counted.eval().requires_grad_(False)


def mixed(main, guide, weight, sigma=0.7, guide_label=LABEL):
    weight = torch.as_tensor(weight).reshape(-1, 1, 1, 1)
    return weight * main(X, sigma, LABEL) + (1 - weight) * guide(X, sigma, guide_label)


def test_eq_152(main, guide):
    torch.testing.assert_close(Guided(main, guide, 2.5)(X, 0.7, LABEL), mixed(main, guide, 2.5))
    torch.testing.assert_close(Guided(main, guide, 0.0)(X, 0.7, LABEL), guide(X, 0.7, LABEL))
    unconditional = network(seed=2, label_dim=0, model_channels=16)
    guided = Guided(main, unconditional, 2.5)
    torch.testing.assert_close(guided(X, 0.7, LABEL), mixed(main, unconditional, 2.5, guide_label=None))


def test_classifier_free_leaves_the_label_out(main):
    torch.testing.assert_close(Guided(main, None, 2.5)(X, 0.7, LABEL), mixed(main, main, 2.5, guide_label=None))


def test_a_network_led_away_from_itself_and_what_a_guide_would_be_without_are_refused(main, guide):
    with pytest.raises(ValueError, match="led away from itself is unguided: pass None"):
        Guided(main, main, 2.5)
    with pytest.raises(ValueError, match=r"without = .*of a network that guides itself"):
        Guided(main, guide, 2.5, without=["nonsense"])
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert Guided(main, guide, weights).of_samples(slice(1, 3)).weight.tolist() == [2.0, 3.0]


def test_weights_per_sample_per_class_and_as_a_function(main, guide):
    per_sample = torch.tensor([0.5, 1.5, 2.0, 3.0])
    torch.testing.assert_close(Guided(main, guide, per_sample)(X, 0.7, LABEL), mixed(main, guide, per_sample))
    per_class = torch.tensor([2.0, 3.0, 1.5])
    guided = Guided(main, guide, PerClass(per_class))
    torch.testing.assert_close(guided(X, 0.7, LABEL), mixed(main, guide, per_class[LABEL]))
    one_hot = torch.nn.functional.one_hot(LABEL, 3).float()
    torch.testing.assert_close(guided(X, 0.7, one_hot), mixed(main, guide, per_class[LABEL]))
    guided = Guided(main, guide, lambda sigma: 1 + sigma**2)
    torch.testing.assert_close(guided(X, 0.7, LABEL), mixed(main, guide, 1.49))
    levels = torch.tensor([0.1, 0.5, 1.0, 2.0])
    torch.testing.assert_close(guided(X, levels, LABEL), mixed(main, guide, 1 + levels**2, levels))


@pytest.mark.parametrize("weight", [1.0, torch.ones(4), PerClass(torch.ones(3)), lambda sigma: 1.0])
def test_weight_1_is_bit_identical_and_never_evaluates_the_guide(main, guide, weight):
    assert torch.equal(Guided(main, guide, weight)(X, 0.7, LABEL), main(X, 0.7, LABEL))
    assert guide.seen == []


def test_the_guide_is_called_in_the_interval_alone(main, guide):
    guided = Guided(main, guide, 2.0, interval=(0.1, 1.0))
    for level in (0.01, 0.1, 1.001, 80.0):
        assert torch.equal(guided(X, level, LABEL), main(X, level, LABEL))
        assert guide.seen == []
    for count, level in enumerate((0.1001, 0.5, 1.0), 1):
        torch.testing.assert_close(guided(X, level, LABEL), mixed(main, network(seed=1), 2.0, level))
        assert len(guide.seen) == 4 * count


def test_the_guide_gets_the_samples_that_it_has_a_say_in(main, guide):
    guided = Guided(main, guide, torch.tensor([1.0, 2.0, 3.0, 4.0]), interval=(0.1, 1.0))
    levels = torch.tensor([0.5, 0.05, 0.75, 0.25])
    found, plain = guided(X, levels, LABEL), main(X, levels, LABEL)
    assert guide.seen == [(0.75, 2), (0.25, 1)]
    assert torch.equal(found[:2], plain[:2])
    expected = mixed(main, network(seed=1), torch.tensor([1.0, 2.0, 3.0, 4.0]), levels)
    torch.testing.assert_close(found[2:], expected[2:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 3}, "the guide has channels 3, the main network 1"),
        ({"resolution": 16}, "the guide has resolution 16, the main network 8"),
        ({"sigma_data": 1.0}, "the guide has sigma_data 1.0, the main network 0.5"),
        ({"label_dim": 7}, "the guide knows 7 classes, the main network 3"),
    ],
)
def test_networks_that_do_not_fit_are_refused(main, changes, words):
    with pytest.raises(ValueError, match=words):
        Guided(main, network(**changes), 2.0)


def test_different_encoders_are_refused():
    main, guide = network(), network(seed=1)
    main.encoder = {"kind": "pixels", "mean": 127.5, "std": 63.75}
    Guided(main, guide, 2.0)  # that of the guide is not known
    guide.encoder = {"kind": "pixels", "mean": 100.0, "std": 63.75}
    with pytest.raises(ValueError, match=r"has encoder .*100"):
        Guided(main, guide, 2.0)


@pytest.mark.parametrize(
    ("weight", "interval", "words"),
    [
        (float("nan"), None, "must be finite"),
        (torch.ones(2, 2), None, r"must be \[N\]"),
        (PerClass(torch.ones(4)), None, "3 classes"),
        (2.0, (1.0, 0.5), "0 <= lo < hi"),
    ],
)
def test_weights_and_intervals_out_of_range_are_refused(main, guide, weight, interval, words):
    with pytest.raises(ValueError, match=words):
        Guided(main, guide, weight, interval)


def test_what_cannot_be_evaluated_is_refused(main, guide):
    with pytest.raises(ValueError, match="3 weights of guidance for 4 samples"):
        Guided(main, guide, torch.full((3,), 2.0))(X, 0.7, LABEL)
    with pytest.raises(ValueError, match="needs labels"):
        Guided(main, guide, PerClass(torch.full((3,), 2.0)))(X, 0.7)
    with pytest.raises(ValueError, match="cannot guide itself"):
        Guided(network(label_dim=0), None, 2.0)


def test_a_guided_denoiser_may_guide(main, guide):
    inner = Guided(main, guide, 2.0)
    torch.testing.assert_close(
        Guided(inner, None, 1.5)(X, 0.7, LABEL), 1.5 * inner(X, 0.7, LABEL) - 0.5 * inner(X, 0.7)
    )


@pytest.mark.parametrize(("label_dropout", "known"), [(0.0, True), (0, True), (0.1, False), (None, False)])
def test_a_network_that_never_was_without_labels_does_not_guide_itself(main, guide, label_dropout, known):
    main.label_dropout = label_dropout
    others = [main, prepare(main), Guided(main, guide, 2.0)]
    for other in others if known else []:
        with pytest.raises(ValueError, match=r"label dropout 0.*--guide NETWORK\), or use one that was trained"):
            Guided(other, None, 1.5)
    if not known:
        assert [Guided(other, None, 1.5).label_dropout for other in others] == [label_dropout] * 3
    Guided(main, guide, 1.5)  # another network may guide it
    unconditional = network(label_dim=0)
    unconditional.label_dropout = 0.0
    Guided(main, unconditional, 1.5)
    main.label_dropout = None


def test_a_denoiser_that_does_not_say_may_guide_itself(main):
    class Foreign(torch.nn.Module):
        spec, sigma_data, encoder = main.spec, main.sigma_data, None
        forward = staticmethod(main.forward)

    assert Guided(Foreign(), None, 1.5).label_dropout is None


def test_stored_networks_know_how_they_were_trained(tmp_path, main):
    header = SnapshotHeader(
        network=main.spec,
        sigma_data=0.5,
        nimg=8,
        profile={"kind": "raw"},
        recipe="tiny",
        encoder=to_dict(PixelEncoder()),
        label_dropout=0.0,
    )
    write_snapshot(tmp_path / header.filename(), header, main.state_dict())
    stored = load(tmp_path / header.filename())
    assert stored.label_dropout == 0
    with pytest.raises(ValueError, match="label dropout 0"):
        Guided(stored, None, 1.5)
