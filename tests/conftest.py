"""Every test checks the shapes in annotations: jaxtyping and beartype, on before the package is imported."""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

import typechecker  # noqa: F401
from jaxtyping import install_import_hook


def _unchecked(name):
    """Import a module of the standard library alone as users have it: it calls a function per opcode of a pickle."""
    root = Path(importlib.util.find_spec("unitgain").origin).parent
    spec = importlib.util.spec_from_file_location(name, root.joinpath(*name.split(".")[1:]).with_suffix(".py"))
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


_unchecked("unitgain.checkpoint.records")
_unchecked("unitgain.checkpoint.pickles")
install_import_hook("unitgain", "typechecker.check")


class _Kernels(MetaPathFinder):
    """Finds kernels before the type checker does: Triton compiles their source, not what a decorator makes of it."""

    def find_spec(self, fullname, path, target=None):
        return PathFinder.find_spec(fullname, path, target) if fullname.startswith("unitgain.kernels.device.") else None


sys.meta_path.insert(0, _Kernels())

import dataclasses  # noqa: E402
import json  # noqa: E402
from functools import partial  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from torch import nn  # noqa: E402

from unitgain.arch import NetworkSpec  # noqa: E402
from unitgain.arch.tokens import TOKENS, Token  # noqa: E402
from unitgain.data.dataset import ArrayDataset  # noqa: E402
from unitgain.denoiser import Denoiser  # noqa: E402
from unitgain.draw.settings import DrawSettings  # noqa: E402
from unitgain.layers import MPConv  # noqa: E402
from unitgain.loss import EDMLoss  # noqa: E402
from unitgain.recipe import Recipe  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # must be there before anything imports Triton

FIRST = ("docs", "distributed", "end_to_end")


def pytest_collection_modifyitems(items):
    """Whole pages, several processes and commands come first: a process that begins one last is waited for."""
    items.sort(key=lambda item: FIRST.index(item.path.parent.name) if item.path.parent.name in FIRST else len(FIRST))


GOLDEN = Path(__file__).parent / "golden"


class Shifted(nn.Module):
    """A module that no backend knows: a shift by the embedding."""

    def __init__(self, channels, emb_channels):
        super().__init__()
        self.linear = MPConv(emb_channels, channels)

    def forward(self, x, emb):
        return x + self.linear(emb)[:, :, None, None].to(x.dtype)


@pytest.fixture
def new_tokens(monkeypatch):
    """Tokens more: b (a shift by the embedding), i (nothing at all), g (a 3x3 convolution in groups) and v (3x1)."""
    shifted = Token("shift", "shift", lambda place: Shifted(place.in_channels, place.emb_channels), conditioned=True)
    grouped = Token(
        "grouped 3x3 convolution",
        "grouped",
        lambda place: MPConv(place.in_channels, place.out_channels, (3, 3), groups=2),
        width="output",
        learned=True,
    )
    tall = Token(
        "3x1 convolution", "tall", lambda place: MPConv(place.in_channels, place.in_channels, (3, 1)), learned=True
    )
    more = {"b": shifted, "i": Token("nothing", "identity", lambda place: nn.Identity()), "g": grouped, "v": tall}
    for module in ("tokens", "block"):
        monkeypatch.setattr(f"unitgain.arch.{module}.TOKENS", TOKENS | more)


class Golden:
    """Tensors computed with the reference implementation, and the configuration they were computed with."""

    def __init__(self, name: str) -> None:
        with safe_open(GOLDEN / f"{name}.safetensors", framework="pt") as file:
            self.config = json.loads(file.metadata()["config"])
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors whose name starts with `prefix`, without it."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).norm() / reference.norm().clamp_min(1e-30)).item()


def trained(spec: NetworkSpec, gain: float = 0.3) -> Denoiser:
    """A denoiser whose gains are not 0, as if it had been trained."""
    torch.manual_seed(0)
    denoiser = Denoiser(spec).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if not parameter.any():
                parameter.normal_(gain, gain / 3)
    return denoiser


torch.set_num_threads(1)  # the networks of the tests are too small to gain from more


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture
def tiny_spec() -> NetworkSpec:
    return NetworkSpec(
        resolution=8,
        channels=1,
        label_dim=3,
        model_channels=8,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        channels_per_head=8,
    )


@pytest.fixture
def tiny_recipe(tiny_spec: NetworkSpec) -> Recipe:
    return Recipe(
        name="tiny",
        network=tiny_spec,
        loss=EDMLoss(P_mean=-0.8, P_std=1.0),
        batch=8,
        duration=96,
        lr=0.01,
        t_ref=4,
        rampup=24,
        snapshot_every=24,
        uncertainty_channels=8,
    )


@pytest.fixture
def tiny_data() -> ArrayDataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (29, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (29,), generator=generator)
    return ArrayDataset(name="tiny", images=images, labels=labels, classes=("a", "b", "c"))


@pytest.fixture
def told(tiny_data: ArrayDataset) -> ArrayDataset:
    """`tiny_data` with conditions: a vector, `style`, and one to four tokens, `text`."""
    style = torch.randn(len(tiny_data), 5, generator=torch.Generator().manual_seed(5))
    text = [torch.randn(1 + row % 4, 6, generator=torch.Generator().manual_seed(row)) for row in range(len(tiny_data))]
    return dataclasses.replace(tiny_data, conditions={"style": style, "text": text})


@pytest.fixture
def told_denoiser(tiny_spec: NetworkSpec, told: ArrayDataset) -> Denoiser:
    """A network that is told them, in evaluation mode, with gains that are not 0."""
    from unitgain.train import fit

    torch.manual_seed(0)
    denoiser = Denoiser(fit(tiny_spec, told)).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if parameter.ndim == 0:
            parameter.fill_(0.5)
    denoiser.classes, denoiser.label_dropout = told.classes, 0.1
    return denoiser


@pytest.fixture
def quick_bench(monkeypatch):
    """Short turns, no measurement of the machine, no search for garbage among everything that tests import."""
    monkeypatch.setattr("unitgain.bench.measure.SHORTEST", 0.0)
    monkeypatch.setattr("unitgain.bench.measure.FEWEST", 1)
    monkeypatch.setattr("unitgain.bench.measure.matrix_peak", lambda device, dtype: 1e9)
    monkeypatch.setattr("unitgain.bench.memory.gc.collect", lambda: 0)


@pytest.fixture
def few_steps(monkeypatch):
    """Images are drawn in at most six steps, whatever is asked for: what pages say does not hang on how many."""
    whole = DrawSettings.sigmas
    monkeypatch.setattr(DrawSettings, "sigmas", lambda self: whole(self.replace(steps=min(self.steps, 6))))


@pytest.fixture
def known_speed(monkeypatch):
    """Plans find so many images a second measured: runs by the hour are as long on any machine, and soon planned."""
    from unitgain.train import plan

    monkeypatch.setattr("unitgain.train.plan", partial(plan, measure=lambda *_: 100.0))


@pytest.fixture
def call(capsys):
    """Runs the command line in this process, `call(*argv, code=0)`; returns what it printed, `out` and `err`."""
    from unitgain.cli.main import main

    def run(*argv, code=0):
        found = 0
        try:
            main([str(word) for word in argv])
        except SystemExit as stop:
            found = stop.code or 0
        output = capsys.readouterr()
        assert found == code, output.out + output.err
        return output

    return run


@pytest.fixture
def call_train(call):
    """`call` for `unitgain train`, with neither progress nor TensorBoard."""
    return lambda *argv, code=0: call("train", *argv, "--no-tensorboard", "--quiet", code=code)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two runs for tests of the explorer, `main` and `guide`: copy one before you change it."""
    from explorers import make_runs

    return make_runs(tmp_path_factory.mktemp("runs"))
