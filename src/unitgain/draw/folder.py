"""A folder of images that grows, is gone on with after an interruption, and says how each of them was drawn.

Images lie a thousand to a folder, as `<thousand>/<seed>.png`; arrays with another ending. While they are drawn each
process keeps a journal of what it has finished, with the hash of each file; in the end `manifest.json` takes the place
of the journals. What a journal lists may have been cut short, and is checked against its hash; what a manifest lists
was finished, and only has to be there in its size.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from unitgain.draw.archive import MANIFEST, Archive, is_archive
from unitgain.draw.files import FileKind, file_kind
from unitgain.draw.rows import without_place
from unitgain.files import require_empty, write_text
from unitgain.sample.seeds import SEEDS
from unitgain.serial import differences
from unitgain.trust import DEFAULT_LIMITS, LimitError, open_own, open_regular, parse_json, read_regular, read_rows

GRID = "grid.png"
CLASSES = "classes"  # names of all that the network knows
FORMAT = "unitgain-images/1"
KEYS = {"seed", "class", "file", "bytes", "sha256"}
PNG = file_kind(None)
Entry = dict[str, Any]  # of these keys


class ImageFolder:
    """Images in a folder, or on their way into an archive.

    Args:
        out: the folder; or a file that ends in .zip, whose images are collected in a folder beside it first.
        about: how they are drawn, as JSON; images that were drawn otherwise are refused.
        rank: of the process that writes.
        kind: of the files.

    Attributes:
        root: the folder.
        archive: what was written before; None for a folder.
    """

    def __init__(self, out: Path, about: dict[str, Any], rank: int = 0, kind: FileKind = PNG) -> None:
        self.out, self.kind = out, kind
        self.archive = Archive(out) if is_archive(out) else None
        self.root = out if self.archive is None else out.with_name(f".{out.name}.parts")
        self.about = json.loads(json.dumps(about, allow_nan=False))
        self._journal = self.root / f".journal-{rank}.jsonl"
        self._begun = False

    def check(self) -> None:
        """See that the folder is new, or holds images that were drawn in the same way.

        Raises:
            FileExistsError: if it holds something else.
            ValueError: if it holds images that were drawn otherwise.
        """
        manifest = self._manifest()
        if self.archive is not None and self.archive.path.exists() and not manifest:
            raise FileExistsError(f"{self.out} is there and no archive that this command wrote: choose another --out")
        if not self._journals() and not manifest:
            require_empty(self.root)
        headers = [{key: value for key, value in manifest.items() if key not in ("format", "images")}]
        headers += [row["about"] for row in self._rows() if isinstance(row.get("about"), dict)]
        for header in filter(None, headers):
            if changes := differences(_identity(header), _identity(self.about)):
                raise ValueError(
                    f"{self.out} holds images that were drawn otherwise ({'; '.join(changes)}): "
                    "choose another --out, or repeat those settings to go on"
                )

    def finished(self) -> dict[int, Entry]:
        """The images that are there, by seed; others that were listed count as not drawn."""
        entries = {entry["seed"]: entry for entry in self._listed() if self._is_there(entry)}
        entries.update({row["seed"]: row for row in filter(self._is_entry, self._rows()) if self._is_sound(row)})
        return entries

    def write(self, seed: int, label: int | None, sample: Tensor) -> None:
        """Write one image or array `[C, *size]` and note it in the journal of this process."""
        file = self.file_of(seed)
        path, data = self.root / file, self.kind.encode(sample)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.is_symlink():
            raise OSError(f"{path.parent} is a link, which is not followed: delete it")
        path.unlink(missing_ok=True)  # whatever it is: a link would lead the bytes elsewhere
        path.write_bytes(data)  # not flushed: what a crash leaves is told by its hash
        digest = hashlib.sha256(data).hexdigest()
        self._append({"seed": seed, "class": label, "file": file, "bytes": len(data), "sha256": digest})

    def read(self, file: str) -> bytes:
        """What is in the file of an image.

        Raises:
            OSError: if it is not there, or damaged in the archive.
        """
        try:
            return read_regular(self.root / file, DEFAULT_LIMITS, below=self.root)
        except FileNotFoundError:
            if self.archive is None:
                raise
            return self.archive.read(file)

    def finish(self) -> list[Entry]:
        """Write the manifest, all images in the order of seeds, and remove the journals; returns its entries.

        Where nothing is new, nothing is written.
        """
        entries = [entry for _, entry in sorted(self.finished().items())]
        new = self._journals() or (self.archive is not None and self.root.exists())
        if not new and entries == list(self._listed()):
            return entries
        text = json.dumps({"format": FORMAT, **self.about, "images": entries}, indent=1, allow_nan=False) + "\n"
        write_text(self.root / MANIFEST, text)
        for journal in self._journals():
            journal.unlink()
        if self.archive is not None:
            self.archive.write(entries, self.read, text, self.about.get(CLASSES))
            shutil.rmtree(self.root)
        return entries

    def _append(self, row: dict[str, Any]) -> None:
        rows = [row] if self._begun else [{"about": self.about}, row]
        with open(open_own(self._journal), "a", encoding="utf-8") as file:
            if not self._begun and file.seek(0, os.SEEK_END):
                file.write("\n")  # a process that was killed may have left half a line
            file.writelines(json.dumps(each) + "\n" for each in rows)
        self._begun = True

    def _journals(self) -> list[Path]:
        return sorted(self.root.glob(".journal-*.jsonl"))

    def _manifest(self) -> dict[str, Any]:
        """The manifest in the folder, or in the archive; empty where there is none that was written here."""
        try:
            data = read_regular(self.root / MANIFEST, DEFAULT_LIMITS, below=self.root)
        except (FileNotFoundError, NotADirectoryError):
            data = b"" if self.archive is None else self.archive.manifest
        try:
            manifest = parse_json(data, MANIFEST)
        except ValueError:
            return {}
        return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else {}

    def _listed(self) -> Iterator[Entry]:
        images = self._manifest().get("images")
        return filter(self._is_entry, images if isinstance(images, list) else ())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for journal in self._journals():
            yield from read_rows(journal)

    def file_of(self, seed: int) -> str:
        """Where the sample of a seed lies in its folder."""
        return f"{seed - seed % 1000:06d}/{seed:06d}{self.kind.suffix}"

    def _is_entry(self, row: object) -> bool:
        """Whether this is an entry as they are written here; its file is the one of its seed, and no path of others."""
        if not isinstance(row, dict) or row.keys() != KEYS or type(row["bytes"]) is not int:
            return False
        seed, label = row["seed"], row["class"]
        if type(seed) is not int or not 0 <= seed < SEEDS or not (label is None or type(label) is int):
            return False
        return row["file"] == self.file_of(seed) and isinstance(row["sha256"], str)

    def _is_there(self, entry: Entry) -> bool:
        try:
            with open_regular(self.root / entry["file"], below=self.root) as file:
                return os.fstat(file.fileno()).st_size == entry["bytes"]
        except OSError:
            return self.archive is not None and self.archive.sizes.get(entry["file"]) == entry["bytes"]

    def _is_sound(self, entry: Entry) -> bool:
        try:
            data = read_regular(self.root / entry["file"], DEFAULT_LIMITS, below=self.root)
        except (OSError, LimitError):
            return False
        return hashlib.sha256(data).hexdigest() == entry["sha256"]


def _identity(about: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for images to belong together: not the path of a network with a hash or of data with a
    fingerprint, nor versions.
    """
    same = {key: value for key, value in about.items() if key not in ("software", CLASSES)}
    for key in ("network", "guide"):
        if isinstance(one := same.get(key), dict) and "sha256" in one:
            same[key] = {name: each for name, each in one.items() if name != "name"}
    if isinstance(settings := same.get("settings"), dict):
        same["settings"] = without_place(settings)
    return same
