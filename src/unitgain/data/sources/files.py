"""Folders and zip archives."""

import os
import posixpath
import stat
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

from unitgain.data.sources.classes import classify
from unitgain.data.sources.listing import DEEPEST, Listing, text
from unitgain.data.sources.source import Indexed, SourceOptions, digest, size_and_time, stamp
from unitgain.text import printable
from unitgain.trust import DEFAULT_LIMITS, leads_out, read_member, read_regular

LONGEST_LINK = 4096  # bytes of a path
LINKS_OUT = "links lead out of the folder and were not followed (data prepare --follow-links does)"


def list_folder(root: Path, options: SourceOptions) -> Listing[str]:
    """What lies in a folder; each real folder is visited once, whatever links lead to it.

    Links that lead out of it are left out, unless `options.follow_links`.
    """
    listing = Listing[str](backslashes=False)
    own = options.labels and options.labels.resolve()
    for folder, names in _folders(root, listing, options.follow_links):
        for name in names:
            path = posixpath.join(folder, name)
            if own and name == own.name and (root / path).resolve() == own:
                continue
            if not options.follow_links and _is_link_out(root, path):
                listing.notes.add(LINKS_OUT, text(path))
            else:
                listing.add(path, path)
    listing.pictures = dict(sorted(listing.pictures.items()))
    return listing


def open_folder(root: Path, options: SourceOptions, listing: Listing[str] | None = None) -> Indexed:
    """A folder; classes from `options.labels`, a label file in it, or its first-level folders.

    Args:
        root: the folder.
        options: what may have to be said about it.
        listing: what lies in it, as from `list_folder`, if it is known.

    Raises:
        ValueError: if there are no pictures, or labels do not fit.
    """
    listing = listing or list_folder(root, options)
    for name in (*listing.archives, *listing.parquet):
        listing.notes.add("archives and tables lie beside the pictures and were left out", name)
    source = classify(listing, "folder", str(root), options, lambda path: read_regular(root / path, options.limits))
    stamps = [(key, *size_and_time(root / listing.pictures[key])) for key in (*source.keys, *source.beside)]
    source.fingerprint = digest([stamps, source.classes, source.labels, *filter(None, [source.fingerprint])])
    return source


def open_zip(path: Path, options: SourceOptions) -> Indexed:
    """A zip archive; classes from `options.labels`, the official `dataset.json` in it, or its first-level folders.

    Raises:
        ValueError: if it is damaged or holds no pictures, or labels do not fit.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # BadZipFile, OSError, struct.error, NotImplementedError, ...
        raise ValueError(f"{path} is no whole zip archive: {printable(error)}") from error
    lock = threading.Lock()  # zipfile does not say that threads may share an archive

    def read(name: str) -> bytes:
        with lock:
            return read_member(archive, name, options.limits)

    listing = Listing[str]()
    members = archive.infolist()
    options.limits.check_source(f"{path}, unpacked,", sum(member.file_size for member in members), path.stat().st_size)
    for member in members:
        _add_member(listing, archive, member)
    listing.resolve_links()
    listing.pictures = dict(sorted(listing.pictures.items()))
    for name in (*listing.archives, *listing.parquet):
        listing.notes.add("archives within it were left out: unpack it, and give the folder", name)
    source = classify(listing, "zip", str(path), options, read)
    source.fingerprint = digest([stamp(path), source.classes, source.labels])
    return source


def _folders(root: Path, listing: Listing[str], follow: bool) -> Iterator[tuple[str, list[str]]]:
    """Each real folder below `root`, as a path within, and its files; links to folders are followed after the rest.

    Those that lead out of `root` are followed if that is wanted.
    """
    start = root.resolve()
    seen = {_identity(parent) for parent in start.parents}  # a link to one of these would lead around in a circle
    links = [""]
    while links:
        first = links.pop(0)
        if _identity(root / first) in seen:
            listing.notes.add("links lead to folders that are visited anyway and were left out", text(first))
            continue
        if not follow and _is_link_out(root, first):
            listing.notes.add(LINKS_OUT, text(first))
            continue
        further = []
        for folder, folders, names in os.walk(
            root / first, onerror=lambda error: listing.notes.add("folders cannot be read", text(str(error.filename)))
        ):
            if _identity(Path(folder)) in seen:  # below the target of a link, and visited from elsewhere
                folders.clear()
                continue
            seen.add(_identity(Path(folder)))
            folders.sort()
            here = "" if (here := Path(folder).relative_to(root).as_posix()) == "." else here
            if folders and here.count("/") + 1 >= DEEPEST:  # os.walk calls itself for each
                listing.notes.add("folders lie deeper than paths are: what is in them was left out", text(here))
                folders.clear()
            further += [posixpath.join(here, name) for name in folders if os.path.islink(os.path.join(folder, name))]
            listing.add_folder(here)
            yield here, sorted(names)
        links += further


def _is_link_out(root: Path, path: str) -> bool:
    return bool(path) and os.path.islink(root / path) and leads_out(root / path, root)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _add_member(listing: Listing[str], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    name = member.filename
    if name.endswith("/"):
        listing.add_folder(name)
    elif stat.S_ISLNK(member.external_attr >> 16) and member.file_size <= LONGEST_LINK:
        try:
            target = read_member(archive, name, DEFAULT_LIMITS).decode("utf-8", "replace")
        except Exception as error:  # of whatever the decompressors make of it
            raise ValueError(f"{archive.filename}: {printable(name)} cannot be read: {printable(error)}") from error
        listing.add_link(name, posixpath.join(posixpath.dirname(name.replace("\\", "/")), target))
    else:
        listing.add(name, name)
