"""The example of docs/posthoc-ema.md, and reconstruction against direct tracking in real training."""

import torch
from blocks import run_page
from conftest import relative_error
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

from unitgain.ema import PowerEMA
from unitgain.posthoc import SnapshotStore, reconstruct


def test_the_python_of_the_docs_runs(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    def train_one_step(model):
        with torch.no_grad():
            model[0].weight.add_(0.01 * torch.randn_like(model[0].weight))
            model(torch.randn(8, 4))

    names = {"model": model, "train_one_step": train_one_step, "evaluate": lambda model: model[0].weight.sum().item()}
    names = run_page("docs/posthoc-ema.md", call, names)
    assert len(set(names["scores"].values())) == len(list((tmp_path / "averages").glob("*.safetensors"))) == 3
    assert names["validation"] != names["evaluate"](model)
    assert names["store"].t == 1000


def test_a_classifier_on_digits_reconstructed_and_tracked_directly(tmp_path):
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 32), nn.SiLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    store = SnapshotStore(tmp_path / "run", model, every=10, dtype="float32")
    lengths = [0.03, 0.075, 0.13, 0.2]
    direct = [PowerEMA(model, length) for length in lengths]
    for step in range(1, 641):
        rows = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
        store.update(step, 1)
        for ema in direct:
            ema.update(step, 1)
    for ema, result in zip(
        direct, reconstruct(tmp_path / "run", lengths, tmp_path / "out", dtype="float32"), strict=True
    ):
        tensors = load_file(result.path)
        assert all(relative_error(tensors[name], average) < 1e-3 for name, average in ema.average.items())
