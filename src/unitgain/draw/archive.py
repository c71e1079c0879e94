"""Images as one uncompressed zip in the form that official tools read."""

import functools
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from unitgain.files import atomic
from unitgain.trust import DEFAULT_LIMITS, read_member

LABELS, MANIFEST = "dataset.json", "manifest.json"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes each time


class Archive:
    """A zip of images, read as it was when this was first asked for it.

    Args:
        path: where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def manifest(self) -> bytes:
        """Its manifest; empty where there is none, or no archive."""
        try:
            return self.read(MANIFEST)
        except OSError:
            return b""

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of its members, by name."""
        return {info.filename: info.file_size for info in self._file.infolist()} if self.path.is_file() else {}

    def read(self, name: str) -> bytes:
        """A member.

        Raises:
            OSError: if it is not there or damaged.
        """
        try:
            return read_member(self._file, name, DEFAULT_LIMITS)
        except Exception as error:  # zipfile says in many ways that something is damaged
            raise OSError(f"{self.path} is damaged at {name}: delete it, or choose another --out") from error

    def forget_damaged(self, names: Iterable[str]) -> None:
        """Let those of these members that are damaged count as not there."""
        for name in names:
            try:
                self.read(name)
            except OSError:
                self.sizes.pop(name, None)

    def write(
        self,
        entries: Sequence[dict[str, Any]],
        read: Callable[[str], bytes],
        manifest: str,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Write the images, `dataset.json` with their labels (null without) and the manifest, atomically.

        Args:
            entries: of the manifest.
            read: what is in the file of an image.
            manifest: as text.
            classes: their names, which `dataset.json` gets too.
        """
        labels = [[entry["file"], entry["class"]] for entry in entries]
        labels = None if any(label is None for _, label in labels) else labels
        with atomic(self.path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
            for entry in entries:
                file.writestr(_info(entry["file"]), read(entry["file"]))
            names = {} if classes is None else {"classes": list(classes)}
            file.writestr(_info(LABELS), json.dumps({"labels": labels, **names}))
            file.writestr(_info(MANIFEST), manifest)

    @functools.cached_property
    def _file(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)


def is_archive(out: Path) -> bool:
    """Whether images that go there make an archive, not a folder."""
    return out.suffix.lower() == ".zip"


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = 0o644 << 16
    return info
