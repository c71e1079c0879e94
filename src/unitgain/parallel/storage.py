"""Sharded tensors on the disk, through torch.distributed.checkpoint: each process writes its own, in the background.

The library takes a second to import, so that is done where it is used. It keeps its table of contents in a pickle,
`.metadata`. Nothing in it is trusted: only the names of the classes that belong there are looked up, so a file made by
someone else runs no code. Tensors are read as tensors only.
"""

import pickle
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitgain.parallel.world import World

ALLOWED = {
    "torch": ("Size", "device"),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "pathlib": ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
}


def save_tensors(folder: Path, tensors: dict[str, Tensor], world: World) -> Future[Any]:
    """Write tensors to a folder, in the background; all processes must call this together.

    The tensors are copied before this returns, so training may go on at once. Sharded ones are written by the process
    that has them, others by one of those that have them.

    Returns:
        A future that is done when all processes have written; an error of any is an error of all (see `reason`).
    """
    import torch.distributed.checkpoint as dcp

    _quiet()
    future: Any = dcp.async_save(
        dict(tensors),
        storage_writer=dcp.FileSystemWriter(folder, overwrite=False),
        process_group=world.background,
        no_dist=world.size == 1,
    )
    return future


def load_tensors(folder: Path, tensors: dict[str, Tensor], world: World) -> None:
    """Fill tensors, in place, with what is stored under their names, however they were cut up when they were written.

    Raises:
        ValueError: if something is missing or has another shape.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    _quiet()
    try:
        dcp.load(
            dict(tensors),
            storage_reader=_reader(folder),
            process_group=world.background,
            no_dist=world.size == 1,
        )
    except CheckpointException as error:
        raise ValueError(f"{folder} cannot be read: {reason(error)}") from None
    except (RuntimeError, AssertionError, pickle.UnpicklingError) as error:
        raise ValueError(f"{folder} cannot be read: {error}") from error


def reason(error: BaseException) -> str:
    """What went wrong, on which rank, in one line."""
    from torch.distributed.checkpoint.api import CheckpointException

    if isinstance(error, CheckpointException):
        found = {f"{type(cause).__name__}: {cause}" for cause, _ in error.failures.values()}
        return f"rank {', '.join(map(str, error.failures))}: {'; '.join(sorted(found))}"
    return f"{type(error).__name__}: {error}"


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = name in ALLOWED.get(module, ())
        if known or (module == "torch" and name.isidentifier() and _is_dtype(name)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a checkpoint")


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype | torch.layout | torch.memory_format)


def _reader(folder: Path) -> Any:
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import StorageMeta

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            with open(folder / ".metadata", "rb") as file:
                metadata = _Unpickler(file).load()
            metadata.storage_meta = metadata.storage_meta or StorageMeta()
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(folder)


def _quiet() -> None:
    # On one process the library remarks that it works on one, from a thread of its own.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
