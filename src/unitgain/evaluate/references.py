"""References by the name of a file, those of official pickles too."""

from pathlib import Path

from unitgain import files
from unitgain.checkpoint.convert import read_reference
from unitgain.metrics.reference import Reference, load_references, official_references

SUFFIXES = (".npz", ".pkl")  # of files that hold a reference


def open_references(path: Path) -> dict[str, Reference]:
    """References by name of the detector: ours, or official ones, `.npz` or `.pkl`; nothing in them is executed.

    Raises:
        FileNotFoundError: if there is no file.
        ReferenceFileError: if it is no reference or damaged.
        Refused: if a pickle holds anything else than statistics.
    """
    if path.suffix == ".pkl":
        return official_references(read_reference(path), path.name, files.sha256(path))
    return load_references(path)
