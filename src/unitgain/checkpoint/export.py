"""The way back: a snapshot as a state dict of the official network, references as its tools read them.

An official pickle of a network cannot be written here: it contains the source code of the official classes, which is
not ours to give. The state dict goes into a network that the official code builds.
"""

import pickle
import pickletools
from pathlib import Path
from typing import Any

import torch

from unitgain.checkpoint.nvidia import to_state
from unitgain.checkpoint.snapshot import Snapshot
from unitgain.checkpoint.uncertainty import read_uncertainty
from unitgain.denoiser import Uncertainty
from unitgain.files import atomic

WHY_NOT = (
    "an official .pkl of a network contains the source code of the official classes, which is not ours to write: name "
    "a .pt file, which gets the weights by their official names, for load_state_dict of a network that the official "
    "code builds (docs/official-checkpoints.md has the lines)"
)


def export_network(path: Path, out: Path) -> bool:
    """Write the network of a snapshot for the official code, as `torch.load(out, weights_only=True)` reads it.

    The file is a dict: `state`, tensors by official name, float32; `config`, constructor arguments; and `nimg`,
    `sigma_rel`, `sigma_data`, `encoder` as the snapshot has them.

    Args:
        path: the snapshot.
        out: a `.pt` file; replaced if it is there.

    Returns:
        Whether u(sigma) was beside the snapshot; if not, the file has one that is 0 everywhere.

    Raises:
        FileNotFoundError: if there is no snapshot.
        SnapshotError: if it is damaged.
        ValueError: if the official code builds no such network: config G of EDM2 alone.
    """
    with Snapshot(path) as snapshot:
        header, denoiser = snapshot.header, snapshot.denoiser()
    known = read_uncertainty(path)
    uncertainty = Uncertainty(128 if known is None else len(known["fourier.freqs"]))
    if known is not None:
        uncertainty.load_state_dict(known)
    else:
        torch.nn.init.zeros_(uncertainty.linear.weight)
    state, config = to_state(denoiser, uncertainty)
    about = {"nimg": header.nimg, "sigma_rel": header.sigma_rel, "sigma_data": header.sigma_data}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    with atomic(out) as temporary:
        torch.save({"state": tensors, "config": plain, **about, "encoder": header.encoder}, temporary)
    return known is not None


def export_references(references: dict[str, dict[str, Any]], out: Path) -> None:
    """Write reference statistics as the official tools read them, in a form that any version of NumPy opens.

    Args:
        references: `mu`, `sigma` and, where known, `num_images`, by official name ("fid", "fd_dinov2").
        out: a `.pkl` file; replaced if it is there.
    """
    with atomic(out) as temporary:
        temporary.write_bytes(_portable(pickle.dumps(references, protocol=3)))


def _portable(data: bytes) -> bytes:
    """A pickle of protocol 3 with NumPy's functions under their names of before its version 2, which has both."""
    parts, end = [], 0
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name == "GLOBAL" and str(argument).startswith("numpy._core."):
            start: Any = position
            parts += [data[end:start], b"cnumpy.core."]
            end = start + len(b"cnumpy._core.")
    return b"".join([*parts, data[end:]])
