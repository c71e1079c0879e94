"""Tell what a source is by looking at it."""

import tarfile
import zipfile
from pathlib import Path

from unitgain.data.sources.files import list_folder, open_folder, open_zip
from unitgain.data.sources.hub import open_hub
from unitgain.data.sources.lines import SUFFIXES as TABLES
from unitgain.data.sources.listing import TAR_SUFFIXES
from unitgain.data.sources.pairs import open_pairs
from unitgain.data.sources.parquet import open_parquet
from unitgain.data.sources.saved import open_saved
from unitgain.data.sources.source import Indexed, Notes, Source, SourceOptions
from unitgain.data.sources.splits import choose_files
from unitgain.data.sources.stacks import SUFFIXES as STACKS
from unitgain.data.sources.stacks import is_stack, open_stacks
from unitgain.data.sources.tars import open_tars
from unitgain.files import near
from unitgain.kinds import PICKLE, UNKNOWN, instead_of_snapshot, kind_of, read_head
from unitgain.trust import open_regular

HUB = "hub:"
COLUMNLESS = (".json", ".npy")  # files of labels
BELONG = {  # options that some sources alone heed, and which
    "labels": "files of labels go with folders, archives and stacked arrays; a table has a column (--label-column)",
    "config": "sets on the Hub have configurations",
    "stacked": "folders of files of arrays may be stacked",
    "follow_links": "links are followed in folders",
    "archives": "tar archives may be shards or classes",
}


def open_source(what: str, scratch: Path, options: SourceOptions | None = None) -> Source:
    """The source that `what` names: `hub:org/name`, or the path of a folder or a file.

    A folder may hold pictures, arrays, audio or volumes, parquet files, tar shards, or be a directory of the `datasets`
    library.

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
    if options.no_labels and options.labels is not None:
        raise ValueError(f"labels {options.labels}, and none are wanted (--no-labels): give one of these")
    if options.label_column is not None:
        _check_label_column(options, options.label_column)
    source = _open(what, scratch, options)
    source.options = options
    if options.classes is not None and source.classes is None:
        raise ValueError(
            f"classes {', '.join(options.classes)}: {what} has no labels: name them with --labels or --label-column "
            "where it has some, or leave the classes out"
        )
    if options.allow_missing and not source.conditioned:
        raise ValueError(
            f"--allow-missing: {what} has no conditions that could be missing (--conditions); leave it out"
        )
    if options.conditions and not source.conditioned:
        raise ValueError(
            f"conditions {', '.join(options.conditions)}: {what} has none; they come from a table (.csv, .tsv, .jsonl, "
            ".parquet; metadata.csv or metadata.jsonl beside pictures), from what lies beside a picture in a tar "
            "archive (x.json, or x.small.png beside x.png), or from stacked arrays (.npz, .h5)"
        )
    return source


def place_of(what: str) -> str:
    """A source that is named, in one of the ways to spell it: the whole path of a folder or a file."""
    return what if what.startswith(HUB) else str(Path(what).resolve())


def _check_label_column(options: SourceOptions, column: str) -> None:
    """Raise `ValueError` if nothing could have the column of labels that is named."""
    if options.no_labels:
        raise ValueError(f"label column {column!r}, and no labels are wanted (--no-labels): give one of these")
    if options.labels is not None and options.labels.suffix.lower() in COLUMNLESS:
        raise ValueError(
            f"label column {column!r}: labels {options.labels} is no table and has no columns: leave it out"
        )


def _open(what: str, scratch: Path, options: SourceOptions) -> Source:
    if what.startswith(HUB):
        _refuse_others(options, what, "a set on the Hub", "config")
        return open_hub(what.removeprefix(HUB), options)
    path = Path(what)
    if not path.exists():
        remedy = near(path) or "; a set on the Hugging Face Hub is written hub:org/name"
        raise FileNotFoundError(f"{what} does not exist{remedy}")
    return (_open_folder if path.is_dir() else _open_file)(path, scratch, options).limited(options.limit)


def _refuse_others(options: SourceOptions, what: object, kind: str, *heeded: str) -> None:
    """Refuse options that a source would ignore; all take `SourceOptions` but for those in `BELONG`.

    Raises:
        ValueError: naming the first that it does not heed.
    """
    for name, why in BELONG.items():
        value = getattr(options, name)
        if value not in (None, False) and name not in heeded:
            given = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise ValueError(f"{given}: {what} is {kind}, which does not heed it: {why}; leave it out")


def _open_folder(path: Path, scratch: Path, options: SourceOptions) -> Indexed:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        _refuse_others(options, path, "a directory of the datasets library")
        return open_saved(path, options)
    listing = list_folder(path, options)
    kinds = {"pictures": listing.pictures, "tar archives": listing.archives, "parquet files": listing.parquet}
    kind = _most(path, {kind: files for kind, files in kinds.items() if files})
    if kind == "pictures" and options.stacked:
        names = [name for name in listing.pictures if name.lower().endswith(STACKS)]
        _refuse_others(options, path, "a folder of stacked arrays", "labels", "stacked", "follow_links")
        if not names:
            raise ValueError(f"{path} holds no files of stacked arrays ({', '.join(STACKS)})")
        chosen, splits = choose_files(names, options.split, str(path))
        names = [names[index] for index in chosen]
        return open_stacks([path / listing.pictures[name] for name in names], options, str(path), splits, names)
    heeded = {"pictures": ("labels",), "tar archives": ("labels", "archives"), "parquet files": ()}[kind]
    _refuse_others(options, path, f"a folder of {kind}", "follow_links", *heeded)
    if kind == "pictures":
        return open_folder(path, options, listing)
    names = sorted(kinds[kind])
    chosen, splits = choose_files(names, options.split, str(path))
    names = [names[index] for index in chosen]
    paths = [path / kinds[kind][name] for name in names]
    if kind == "parquet files":
        source = open_parquet(paths, options, splits)
    else:
        source = open_tars(paths, scratch, options, splits, names)
    left = Notes()
    for other in sorted(kinds.keys() - {kind}):
        for name in kinds[other]:
            left.add(f"{other} lie beside the {kind} and were left out", name)
    source.notes = (*source.notes, *left.lines())
    return source


def _most(folder: Path, kinds: dict[str, dict[str, str]]) -> str:
    """What a folder holds most of, by number and by bytes.

    Raises:
        ValueError: if these are not the same.
    """
    if len(kinds) < 2:
        return next(iter(kinds), "pictures")
    sizes = {kind: sum(map(_size, (folder / file for file in files.values()))) for kind, files in kinds.items()}
    number = max(kinds, key=lambda kind: len(kinds[kind]))
    if number != max(sizes, key=lambda kind: sizes[kind]):
        listed = ", ".join(
            f"{len(files):,} {kind} of {sizes[kind]:,} bytes ({next(iter(files))})" for kind, files in kinds.items()
        )
        raise ValueError(
            f"{folder} holds {listed}: give the file or folder that is meant, or move the others elsewhere"
        )
    return number


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _open_file(path: Path, scratch: Path, options: SourceOptions) -> Indexed:
    with open_regular(path) as file:
        magic = file.read(4)
    _, splits = choose_files([path.name], options.split, str(path))
    if magic == b"PAR1":
        _refuse_others(options, path, "a parquet file")
        return open_parquet([path], options, splits)
    if is_stack(path, magic):
        _refuse_others(options, path, "a file of stacked arrays", "labels", "stacked")
        return open_stacks([path], options, str(path), splits)
    if path.suffix.lower() in TABLES:
        _refuse_others(options, path, "a table of text")
        return open_pairs(path, options, splits)
    if path.name.lower().endswith(TAR_SUFFIXES) or tarfile.is_tarfile(path):
        _refuse_others(options, path, "a tar archive", "labels", "archives")
        return open_tars([path], scratch, options, splits)
    if magic[:2] == b"PK" or path.suffix == ".zip" or zipfile.is_zipfile(path):
        _refuse_others(options, path, "a zip archive", "labels")
        return open_zip(path, options)
    if PICKLE.fits(magic) and (instead := instead_of_snapshot(path)):
        raise ValueError(f"{path} {instead}")
    kind = kind_of(read_head(path))
    what = "" if kind == UNKNOWN else f" it is {kind};"
    raise ValueError(
        f"{path} is no source of images:{what} expected a folder, a zip archive, tar shards, a table (.parquet, "
        ".csv, .jsonl), stacked arrays (.npy, .npz, .h5), a directory of the datasets library, or hub:org/name"
    )
