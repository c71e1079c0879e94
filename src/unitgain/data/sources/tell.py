"""Tell what a source is by looking at it."""

import tarfile
import zipfile
from pathlib import Path

from unitgain.data.sources.files import open_folder, open_tars, open_zip
from unitgain.data.sources.source import Indexed, SourceOptions, Stream
from unitgain.data.sources.tables import open_hub, open_parquet, open_saved

HUB = "hub:"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_source(what: str, scratch: Path, options: SourceOptions | None = None) -> Indexed | Stream:
    """The source that `what` names: `hub:org/name`, or the path of a folder or a file.

    A folder may hold pictures, parquet files, tar shards, or be a directory of the `datasets` library.

    Args:
        what: the source.
        scratch: folder for what has to be unpacked.
        options: what may have to be said about it.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ImportError: if it needs a package that is missing.
        ValueError: if it is none of these, or is damaged.
    """
    options = options or SourceOptions()
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"limit {options.limit}: must be at least 1 image")
    if what.startswith(HUB):
        return open_hub(what.removeprefix(HUB), options)
    path = Path(what)
    if not path.exists():
        raise FileNotFoundError(f"{what} does not exist; a set on the Hugging Face Hub is written hub:org/name")
    return (_open_folder if path.is_dir() else _open_file)(path, scratch, options).limited(options.limit)


def _open_folder(path: Path, scratch: Path, options: SourceOptions) -> Indexed:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return open_saved(path, options)
    for suffixes, opener in (((".parquet",), open_parquet), (TAR_SUFFIXES, None)):
        found = sorted(file for file in path.rglob("*") if file.name.endswith(suffixes) and file.is_file())
        if options.split and opener:  # named as on the Hub: train-00000-of-00004.parquet
            found = [file for file in found if file.name.startswith(options.split) or file.parent.name == options.split]
        if found:
            return opener(found, options) if opener else open_tars(found, scratch, options)
    return open_folder(path, options)


def _open_file(path: Path, scratch: Path, options: SourceOptions) -> Indexed:
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        return open_parquet([path], options)
    if path.name.endswith(TAR_SUFFIXES) or tarfile.is_tarfile(path):
        return open_tars([path], scratch, options)
    if magic[:2] == b"PK" or path.suffix == ".zip" or zipfile.is_zipfile(path):
        return open_zip(path, options)
    raise ValueError(
        f"{path} is no source of images: expected a folder, a zip archive, tar shards, a parquet file, a directory of "
        "the datasets library, or hub:org/name"
    )
