"""The official EDM2 network beside ours, with the same weights: `python benchmarks/reference.py CHECKOUT edm2-img64-s`.

CHECKOUT is one of the official code, which is run: `training.networks_edm2.Precond` is imported from it, built with the
constructor arguments of the network and given its weights. Only networks of config G have a counterpart there.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arguments import parse
from machine import markdown
from unitgain.bench.cases import parse_mode
from unitgain.bench.forward import Evaluations, relative_error
from unitgain.bench.measure import Comparison, Pace, Work, measure
from unitgain.bench.tables import notes
from unitgain.checkpoint.nvidia import to_state
from unitgain.denoiser import Denoiser, Uncertainty
from unitgain.recipe import Recipe

MODULE, CLASS = "training.networks_edm2", "Precond"


class Reference:
    """The official network, called as ours are.

    Args:
        network: `forward(x, sigma, class_labels)`, labels one-hot.
        classes: that it knows.
        dtype: in which it computes.
    """

    def __init__(self, network: nn.Module, classes: int, dtype: torch.dtype) -> None:
        self.network, self.classes, self.dtype = network, classes, dtype

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """Denoise; `label` holds classes."""
        one_hot = None if label is None else F.one_hot(label, self.classes).float()
        return self.network(x, sigma, one_hot)


def load_reference(path: Path, denoiser: Denoiser, device: torch.device | str = "cpu") -> Reference:
    """The official network with the weights of `denoiser`.

    Args:
        path: of a checkout; its code is run.
        denoiser: config G of EDM2.
        device: where to put it. On GPUs the official network computes in float16 by default, elsewhere in float32.

    Raises:
        ValueError: if there is no such code, it cannot be imported, or it is another network.
    """
    uncertainty = Uncertainty()
    state, config = to_state(denoiser, uncertainty)
    made = precond(path)
    try:
        network = made(**config)
        network.load_state_dict(state)
    except (TypeError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).strip().splitlines()[:3])
        raise ValueError(f"{CLASS} of {path} does not take the weights of this network: {text}") from error
    network = network.to(device).eval().requires_grad_(False)
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    return Reference(network, denoiser.spec.label_dim, dtype)


def precond(path: Path) -> Any:
    """The class of the official network, from a checkout of its code.

    Raises:
        ValueError: if it is not there or cannot be imported.
    """
    file = path.joinpath(*MODULE.split(".")).with_suffix(".py")
    if not file.is_file():
        raise ValueError(f"{path} is no checkout of the official EDM2 code: there is no {file}")
    with first_on_path(path):
        try:
            module = importlib.import_module(MODULE)
        except Exception as error:  # whatever its code raises
            raise ValueError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, CLASS):
        raise ValueError(f"{file} has no class {CLASS}")
    return getattr(module, CLASS)


@contextmanager
def first_on_path(path: Path) -> Iterator[None]:
    """Import from `path` before anywhere else; afterwards nothing of it is left but what was imported from it.

    A package `training` of someone else's that was imported before is put aside for the time, and comes back.
    """
    top = MODULE.partition(".")[0]
    mine = lambda: [name for name in sys.modules if name == top or name.startswith(f"{top}.")]  # noqa: E731
    aside = {name: sys.modules.pop(name) for name in mine()}
    entry = str(path.resolve())
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(entry)
        for name in mine():
            del sys.modules[name]
        sys.modules.update(aside)


def compare(
    checkout: Path,
    network: str | Recipe,
    modes: Sequence[str],
    batch: int = 1,
    device: torch.device | str = "cpu",
    pace: Pace | None = None,
) -> Comparison:
    """Evaluations of the official network, which comes first, and of ours in modes of `unitgain bench forward`."""
    evaluations = Evaluations(network, batch, device)
    reference = load_reference(checkout, evaluations.denoiser, device)
    run = torch.inference_mode()(lambda: reference(*evaluations.inputs))
    facts = {"error": relative_error(run(), evaluations.expected)}
    works = [Work(name="reference", run=run, items=batch, dtype=reference.dtype, facts=facts)]
    works += [evaluations.work(mode, parse_mode(mode, device)) for mode in modes]
    return measure(works, device, pace)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("network", help="as in `unitgain bench forward`")
    parser.add_argument("--modes", nargs="*", default=["plain", "fast"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parse(parser, arguments, results=None)
    pace = Pace(repeats=1) if args.small else None
    found = compare(args.checkout, args.network, args.modes, args.batch, args.device, pace)
    print(markdown(found), *notes(found), sep="\n")


if __name__ == "__main__":
    main()
