"""Snapshots by a path, a preset's name or a repository of the Hugging Face Hub, and back to a folder or the Hub.

A repository is a folder with `model.safetensors`, a snapshot as it is; `config.json`, what the snapshot says of itself,
for others to read; and `README.md`, the model card, written from the same.
"""

import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from unitgain.card import model_card
from unitgain.checkpoint.snapshot import DTYPES, Snapshot, SnapshotHeader, write_snapshot
from unitgain.checkpoint.writer import write_average
from unitgain.denoiser import Denoiser, parameter_count
from unitgain.files import staged, write_text
from unitgain.infer import Prepared
from unitgain.kinds import instead_of_snapshots
from unitgain.presets import PRESETS, preset_files
from unitgain.serial import to_dict

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class HubError(Exception):
    """A repository of the Hub cannot be read or written."""


def load(
    what: Path | str,
    *,
    file: str = MODEL,
    revision: str | None = None,
    token: str | bool | None = None,
    mapped: bool = False,
) -> Denoiser:
    """Open a snapshot as a denoiser: float32, on the CPU, in evaluation mode, without gradients.

    Args:
        what: a `.safetensors` file written by training, reconstruction or conversion; a folder that `save_pretrained`
            wrote; the name of a preset that was fetched (its network, without the guide); or a repository of the
            Hugging Face Hub, "org/name", which is fetched into the Hub's cache. What is on disk comes first.
        file: the snapshot's name in a folder or repository.
        revision: branch, tag or commit of the repository.
        token: of the Hub, for what is not public; by default the one that `hf auth login` stored.
        mapped: leave the parameters in the file, in its precision, and map them into memory. Only for
            `unitgain.infer.prepare`, which makes the same of them and then takes no memory for the original. Until
            then the file must stay as it is.

    Raises:
        FileNotFoundError: if there is no file, and `what` is no name of anything else.
        SnapshotError: if it is no snapshot, such as a pickle, which has to be converted first, or damaged.
        HubError: if the repository or its file is not there or cannot be reached.
        ValueError: if there is a revision, or a file within it, to what is no repository.
    """
    with Snapshot(locate(what, file=file, revision=revision, token=token)) as snapshot:
        return snapshot.denoiser(mapped)


def locate(
    what: Path | str, *, file: str = MODEL, revision: str | None = None, token: str | bool | None = None
) -> Path:
    """The snapshot that `load` would open; arguments and errors as there."""
    path = Path(what)
    if path.exists() and (revision is not None or (path.is_file() and file != MODEL)):
        asked = f"file {file!r}" if revision is None else f"revision {revision!r}"
        raise ValueError(f"{what} is on this machine, where {asked} means nothing: it is for repositories of the Hub")
    if path.is_dir():
        if not (path / file).is_file():
            found = sorted(path.glob("[!.]*.safetensors")) or sorted((path / "snapshots").glob("[!.]*.safetensors"))
            hint = f": name a .safetensors file, such as {found[-1]}" if found else instead_of_snapshots(path)
            raise FileNotFoundError(f"no snapshot at {path / file}{hint or ': name a .safetensors file'}")
        return path / file
    if not path.exists() and isinstance(what, str):
        if what in PRESETS:
            return preset_files(what)[0]
        if HUB_ID.fullmatch(what) and path.suffix not in (".safetensors", ".pkl", ".pickle", ".pt", ".pth"):
            return _from_hub(what, file, revision, token)
    return path


def names_network(what: str) -> bool:
    """Whether `locate` would find a network by this name, rather than something else or nothing being there."""
    path = Path(what)
    if path.is_dir():
        return (path / MODEL).is_file()
    if path.exists() or path.suffix == ".safetensors":
        return path.suffix == ".safetensors"
    return what in PRESETS or (HUB_ID.fullmatch(what) is not None and not path.parent.exists())


def save_pretrained(
    source: Path | str | Denoiser,
    folder: Path | str,
    *,
    header: SnapshotHeader | None = None,
    dtype: str | None = None,
    data: str | None = None,
    license: str | None = None,
    metrics: Mapping[str, float] | None = None,
    repo_id: str | None = None,
) -> Path:
    """Write a folder that `load` opens and that can be a repository of the Hub, with a model card.

    Args:
        source: a snapshot, or anything else that `load` takes, which is copied as it is, shards into one file; or a
            denoiser.
        folder: must be empty or not there.
        header: what the snapshot says of itself; needed for a denoiser, and only for one.
        dtype: of the parameters of a denoiser in the file: "float16", the default, "bfloat16" or "float32"; a snapshot
            has its own.
        data: what it was trained on, for the card; by default what the snapshot says.
        license: of the weights, for the card; by default what the snapshot says.
        metrics: measured results, for the card, by name.
        repo_id: "org/name", for the card.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder has anything in it.
        FileNotFoundError: if there is no snapshot.
        SnapshotError: if it is damaged.
        ValueError: if a denoiser comes without a header, or with that of another network.
    """
    folder = Path(folder)
    with staged(folder) as partial:
        _write_model(partial / MODEL, source, header, dtype)
        with Snapshot(partial / MODEL) as snapshot:
            denoiser, header = snapshot.denoiser(), snapshot.header
            stored = {snapshot.tensor(name).dtype for name in snapshot.names[:1]}.pop()
        header = dataclasses.replace(header, data=data or header.data, license=license or header.license)
        write_text(partial / CONFIG, json.dumps({"library_name": "unitgain", **to_dict(header)}, indent=1) + "\n")
        name = next((key for key, value in DTYPES.items() if value == stored), str(stored))
        card = model_card(header, parameter_count(denoiser), name, metrics=metrics, repo_id=repo_id)
        write_text(partial / CARD, card)
    return folder


def _write_model(target: Path, source: Path | str | Denoiser, header: SnapshotHeader | None, dtype: str | None) -> None:
    """The snapshot of a folder: a copy of what is there, or of a denoiser."""
    if isinstance(source, Prepared):
        raise ValueError("a prepared denoiser has no parameters to save: save the one that it was made from")
    if isinstance(source, Denoiser):
        if header is None or header.network != source.spec or header.sigma_data != source.sigma_data:
            raise ValueError(
                "a denoiser does not know how it was trained: give header=SnapshotHeader(...) with its network "
                "and sigma_data, or save the snapshot it came from, by its path"
            )
        write_snapshot(target, header, source.state_dict(), dtype or "float16")
        return
    if header is not None or dtype is not None:
        raise ValueError("a snapshot has a header and a dtype of its own, and is copied as it is: leave these out")
    path = locate(source)
    if not path.is_file():
        raise FileNotFoundError(f"no snapshot at {path}")
    with Snapshot(path) as snapshot:  # what is wrong with it is said of the path that was given
        if len(snapshot.paths) == 1:
            shutil.copyfile(path, target)
        else:
            write_average(target, snapshot.facts, dict(snapshot.verified()))


def push_to_hub(
    source: Path | str,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    message: str = "Upload a unitgain snapshot",
    data: str | None = None,
    license: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Write a repository of the Hub as `save_pretrained` writes a folder; it is made if it is not there.

    Args:
        source: a snapshot, or anything else that `load` takes: of a denoiser, the folder that `save_pretrained` wrote.
        repo_id: "org/name".
        private: whether a new repository is; by default as the organization has it.
        token: of the Hub; by default the one that `hf auth login` stored.
        revision: branch to commit to.
        message: of the commit.
        data: as for `save_pretrained`.
        license: as for `save_pretrained`.
        metrics: as for `save_pretrained`.

    Returns:
        The address of the commit.

    Raises:
        HubError: if the Hub refuses or cannot be reached.
    """
    check_repository(repo_id)
    import huggingface_hub

    with tempfile.TemporaryDirectory(prefix="unitgain-") as temporary:
        folder = Path(temporary) / "repository"
        save_pretrained(source, folder, data=data, license=license, metrics=metrics, repo_id=repo_id)
        api = huggingface_hub.HfApi(token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=message, revision=revision, repo_type="model"
            )
        except Exception as error:  # the client's own, its HTTP library's, and those of sockets
            raise HubError(f"{repo_id} could not be pushed to the Hub: {_reason(error)}") from error
    return str(getattr(commit, "commit_url", commit))


def check_repository(repo_id: str) -> None:
    """Check that a name is one of a repository.

    Raises:
        ValueError: if it is not "org/name".
    """
    if not HUB_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id!r} is no repository of the Hub: write organization/name")


def _from_hub(repo_id: str, file: str, revision: str | None, token: str | bool | None) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repo_id, file, revision=revision, token=token))
    except Exception as error:  # the client's own, its HTTP library's, and those of sockets
        raise HubError(
            f"no snapshot at {repo_id}, and {file} of that repository of the Hub cannot be had: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"
