"""The official EDM2 network from a checkout of its code, with our weights in it, to be measured beside ours."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitgain.checkpoint.nvidia import to_state
from unitgain.denoiser import Denoiser, Uncertainty

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
        denoiser: rung G of EDM2.
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
