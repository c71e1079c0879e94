"""The official network beside ours: a stand-in for its code, with its names of parameters, computes what ours does."""

import sys
from pathlib import Path

import pytest
import torch
from official_files import STAND_IN, write_checkout

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from reference import compare, load_reference, precond
from unitgain.bench.measure import Pace
from unitgain.denoiser import Denoiser


@pytest.fixture
def checkout(tmp_path, quick_bench):
    return write_checkout(tmp_path / "edm2")


@pytest.mark.parametrize("label_dim", [3, 0])
def test_the_same_weights_in_both(checkout, tiny_recipe, label_dim):
    recipe = tiny_recipe.replace(network=tiny_recipe.network.replace(label_dim=label_dim), sigma_data=0.6)
    report = compare(checkout, recipe, ["plain", "float32"], batch=2, pace=Pace(repeats=1))
    reference, plain, prepared = report.rows
    assert reference.name == "reference"
    assert reference.ratio == 1.0
    assert reference.facts["error"] == pytest.approx(1e-3, rel=0.01)  # the stand-in is that far off on purpose
    assert plain.facts["error"] == 0.0
    assert plain.ratio == pytest.approx(reference.seconds / plain.seconds)
    assert prepared.facts["error"] < 2e-6


def test_nothing_is_left_behind(checkout, tmp_path):
    mine = tmp_path / "mine" / "training"
    mine.mkdir(parents=True)
    (mine / "__init__.py").write_text("whose = 'mine'")
    sys.path.insert(0, str(mine.parent))
    try:
        import training

        before = list(sys.path)
        assert precond(checkout).__name__ == "Precond"
        assert sys.modules["training"] is training
        assert "training.networks_edm2" not in sys.modules
        assert sys.path == before
    finally:
        sys.path.remove(str(mine.parent))
        sys.modules.pop("training", None)


def test_what_is_no_checkout(checkout, tmp_path, tiny_spec):
    denoiser = Denoiser(tiny_spec)
    with pytest.raises(ValueError, match="no checkout of the official EDM2 code"):
        load_reference(tmp_path, denoiser)
    file = checkout / "training" / "networks_edm2.py"
    file.write_text("import nothing_of_that_name")
    with pytest.raises(ValueError, match="cannot be imported: ModuleNotFoundError: No module named 'nothing_of_that"):
        load_reference(checkout, denoiser)
    file.write_text("class Other: pass")
    with pytest.raises(ValueError, match="has no class Precond"):
        load_reference(checkout, denoiser)
    file.write_text(STAND_IN.replace("register_buffer(last, tensor)", "register_buffer(last, tensor[..., None])"))
    with pytest.raises(ValueError, match=r"does not take the weights.*size mismatch"):
        load_reference(checkout, denoiser)
    with pytest.raises(ValueError, match="config G of EDM2 and nothing else"):
        load_reference(checkout, Denoiser(tiny_spec.replace(branch="s d E s P m s d")))
    assert not any(name.partition(".")[0] == "training" for name in sys.modules)


def test_an_edm2plus_network_has_no_reference(checkout, tiny_recipe):
    other = tiny_recipe.replace(network=tiny_recipe.network.replace(branch="s d E s P m s d"))
    with pytest.raises(ValueError, match="not a network with branch"):
        compare(checkout, other, ["plain"], pace=Pace(repeats=1))


def test_outputs_without_a_label(checkout, tiny_recipe):
    denoiser = Denoiser(tiny_recipe.network).eval()
    reference = load_reference(checkout, denoiser)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(reference(x, torch.ones(2), None), denoiser(x, torch.ones(2), None) * 1.001)
