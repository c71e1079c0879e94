"""Images as one uncompressed zip in the form that official tools read, made of a folder of them."""

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from unitgain.draw.folder import MANIFEST, Entry
from unitgain.files import atomic
from unitgain.trust import DEFAULT_LIMITS, read_member

LABELS = "dataset.json"
IMAGE = re.compile(r"[0-9]{6,10}/[0-9]{6,10}\.png", re.ASCII)
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes each time


def parts_of(archive: Path) -> Path:
    """The folder in which the images of an archive are collected."""
    return archive.with_name(f".{archive.name}.parts")


def pack(folder: Path, entries: Sequence[Entry], archive: Path) -> None:
    """Write the images, `dataset.json` with their labels (null without) and the manifest, atomically."""
    labelled = [[entry["file"], entry["class"]] for entry in entries]
    labels = None if any(label is None for _, label in labelled) else labelled
    with atomic(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
        for entry in entries:
            file.writestr(_info(entry["file"]), (folder / entry["file"]).read_bytes())
        file.writestr(_info(LABELS), json.dumps({"labels": labels}))
        file.writestr(_info(MANIFEST), (folder / MANIFEST).read_bytes())


def unpack(archive: Path, folder: Path) -> None:
    """Take an archive that is to grow apart again; one that is damaged, only as far as it is whole.

    Raises:
        FileExistsError: if it is no archive of images drawn here.
    """
    refusal = f"{archive} is there and no archive that this command wrote: choose another --out"
    try:
        file = zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise FileExistsError(refusal) from error
    with file:
        names = file.namelist()
        if MANIFEST not in names:
            raise FileExistsError(refusal)
        for name in names:
            if name == MANIFEST or IMAGE.fullmatch(name):  # what else there may be is not ours
                try:
                    data = read_member(file, name, DEFAULT_LIMITS)
                except Exception:  # it is damaged, which zipfile says in many ways: drawn again
                    continue
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = 0o644 << 16
    return info
