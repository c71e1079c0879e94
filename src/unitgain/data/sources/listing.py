"""What lies in a folder or an archive, sorted by its names: pictures, files of labels, and what is left out.

Names are never paths of this machine: they are looked up where they were found. Nothing that looks like a picture or a
file of labels is left out without a note.
"""

import posixpath
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from unitgain.data.sources.source import Notes, is_hidden, is_picture

Place = TypeVar("Place")
LABEL_FILES = ("dataset.json", "labels.csv", "metadata.csv", "metadata.jsonl", "manifest.json")  # the first one counts
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".cls")
LINKS_DEEP = 40  # as many as the kernel follows
LONGEST, DEEPEST = 4096, 100  # characters of a path, as the kernel has it, and folders in it


@dataclass
class Listing(Generic[Place]):
    """Files by name, each with the place where its bytes are.

    Attributes:
        backslashes: whether a backslash parts folders, as in archives that Windows wrote.
        pictures: in the order in which they came; of several with one name the last counts, as in unpacking.
        tables: files that may hold labels, `LABEL_FILES`.
        archives: tar archives.
        parquet: parquet files.
        folders: paths of all folders.
        links: paths, and what they point to.
        notes: what was left out.
    """

    backslashes: bool = True
    pictures: dict[str, Place] = field(default_factory=dict)
    tables: dict[str, Place] = field(default_factory=dict)
    archives: dict[str, Place] = field(default_factory=dict)
    parquet: dict[str, Place] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)

    def add(self, raw: str, place: Place) -> None:
        """One more file."""
        name = self._name(raw)
        if name is None:
            return
        kept = self._kind(name)
        if kept is None:
            table = name.lower().endswith(TABLE_SUFFIXES)
            what = "may hold labels and were not used (--labels FILE)" if table else "are no pictures and were left out"
            self.notes.add(f"files {what}", name)
            return
        if name in kept:
            self.notes.add("files have the name of a later one, which takes their place", name)
        kept[name] = place

    def add_folder(self, raw: str) -> None:
        """One more folder, perhaps an empty one."""
        name = plain_path(raw, self.backslashes)
        if name and not is_hidden(name) and not _is_endless(name):
            self.folders.add(text(name))

    def add_link(self, raw: str, target: str) -> None:
        """A link within an archive; `target` is a path in it."""
        name = self._name(raw)
        if name is not None:
            self.links[name] = plain_path(target, self.backslashes) or ""

    def resolve_links(self) -> None:
        """Give each link the place of the file that it leads to."""
        for name in self.links:
            target = name
            for _ in range(LINKS_DEEP):
                target = self.links.get(target, "")
                if target not in self.links:
                    break
            places = next((kept for kept in (self.pictures, self.tables, self.archives) if target in kept), None)
            kept = self._kind(name)
            if places is not None and kept is not None:
                kept[name] = places[target]
            elif target in self.folders:
                self.notes.add("links lead to folders, whose pictures are taken once", name)
            else:
                self.notes.add("links lead to no picture in it and were left out", name)

    def _name(self, raw: str) -> str | None:
        """The name that a file goes by; None, and a note, for one that is left out for its name."""
        name = plain_path(raw, self.backslashes)
        if name is None:
            self.notes.add("files lie outside by their names and were left out", text(raw))
            return None
        if _is_endless(name):
            self.notes.add("files have names longer or deeper than paths are, and were left out", text(name))
            return None
        if is_hidden(name):
            if is_picture(name):
                self.notes.add("hidden files look like pictures and were left out", name)
            return None
        if not name.isascii() and name != text(name):
            name = text(name)
            self.notes.add("names are not UTF-8 and are kept with escapes", name)
        folder = name.rpartition("/")[0]
        if folder and folder not in self.folders:
            self.folders.update(parents(name))
        return name

    def _kind(self, name: str) -> dict[str, Place] | None:
        lower = name.lower()
        if is_picture(name):
            return self.pictures
        if posixpath.basename(lower) in LABEL_FILES:
            return self.tables
        if lower.endswith(TAR_SUFFIXES):
            return self.archives
        return self.parquet if lower.endswith(".parquet") else None


def plain_path(raw: str, backslashes: bool = True) -> str | None:
    """A path as `a/b.png`, without `./`, `//` and the root; None if it leads out."""
    name = posixpath.normpath(raw.replace("\\", "/") if backslashes else raw).lstrip("/")
    return None if name == ".." or name.startswith("../") else "" if name == "." else name


def _is_endless(name: str) -> bool:
    """Whether a path is such that all that it leads through takes far more memory than it does."""
    return len(name) > LONGEST or name.count("/") > DEEPEST


def parents(name: str) -> list[str]:
    """The folders that a path leads through, `["a", "a/b"]` for `a/b/c.png`."""
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def text(name: str) -> str:
    """A name as text that can be written, bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def companions(names: Collection[str]) -> set[str]:
    """Further pictures of a sample, as WebDataset has them: `x.seg.png` and `x.mask.png` beside `x.jpg`."""
    plain, further = set[str](), list[tuple[str, str]]()
    for name in names:
        folder, file = posixpath.split(name)
        sample, _, rest = file.partition(".")
        inner = rest.rpartition(".")[0]
        if not inner:
            plain.add(f"{folder}/{sample}")
        elif inner.replace("_", "").replace(".", "").isalpha():
            further.append((f"{folder}/{sample}", name))
    return {name for sample, name in further if sample in plain}
