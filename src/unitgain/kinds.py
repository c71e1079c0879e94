"""What a file is, by its first bytes: to say so where another was expected."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from unitgain.trust import open_regular

HEAD = 1024  # bytes that tell
TEXT, UNKNOWN, SAFETENSORS = "text", "of a kind that is not known here", "a safetensors file"
TORCH_SAVE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # of its first format
LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Kind:
    """What a file must be.

    Args:
        name: in words.
        begins: what its first bytes may be.
    """

    name: str
    begins: tuple[bytes, ...]

    def fits(self, head: bytes) -> bool:
        """Whether a file that begins so can be one."""
        return head.startswith(self.begins)


PICKLE = Kind("a pickle", tuple(bytes((0x80, protocol)) for protocol in range(2, 6)))
ZIP = Kind("a zip archive", (b"PK\x03\x04",))
_BY_MAGIC = (
    ((TORCH_SAVE,), "a file of torch.save in its first format"),
    (PICKLE.begins, "a pickle"),
    (ZIP.begins, "a zip archive, as torch.save (.pt, .pth) and NumPy (.npz) write"),
    ((b"PK\x05\x06",), "an empty zip archive"),
    ((b"\x1f\x8b",), "a file packed by gzip"),
    ((b"\x93NUMPY",), "an array of NumPy (.npy)"),
    ((b"\x89HDF",), "an HDF5 file"),
    ((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), "a picture"),
    ((b"%PDF",), "a PDF file"),
)
_PAGE = re.compile(rb"\s*(<!--.{0,400}-->\s*)?<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


def read_head(path: Path) -> bytes:
    """The first bytes of a file, as many as `kind_of` looks at.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it is no ordinary file.
    """
    with open_regular(path) as file:
        return file.read(HEAD)


def kind_of(head: bytes) -> str:
    """What begins with these bytes, in words that follow "it is"."""
    if not head:
        return "empty"
    if head.startswith(LFS):
        return "a pointer of Git LFS, not the file itself: fetch that with `git lfs pull`"
    for begins, words in _BY_MAGIC:
        if head.startswith(begins):
            return words
    text = head.removeprefix(b"\xef\xbb\xbf")
    if _PAGE.match(text):
        return "an HTML page, as servers send for an error or a login"
    if text.lstrip().startswith(b"<?xml"):
        return "XML, as servers send for an error"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return SAFETENSORS
    if text.lstrip()[:1] in (b"{", b"["):
        return "text like JSON"
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return TEXT
    return UNKNOWN


def instead_of_snapshots(folder: Path) -> str:
    """What to do with a folder that has official networks instead, in words that follow; empty if it has none."""
    if not any(path.is_file() and PICKLE.fits(read_head(path)) for path in sorted(folder.glob("*.pkl"))[:1]):
        return ""
    command = f"unitgain convert {shlex.quote(str(folder))} OUT --all"
    return f", but pickles, as official networks are, which are not run: convert them first: {command}"


def instead_of_snapshot(path: Path) -> str:
    """What a file is that is no snapshot, and what to do, in words that follow its path; empty if nothing is known."""
    head = read_head(path)
    kind = kind_of(head)
    if PICKLE.fits(head) and not head.startswith(TORCH_SAVE):
        target = shlex.quote(str(path.with_suffix(".safetensors")))
        return (
            "is a pickle, as official networks are, and is not run: convert it first: unitgain convert "
            f"{shlex.quote(str(path))} {target}"
        )
    if ZIP.fits(head) or head.startswith(TORCH_SAVE):
        return (
            f"is {kind}, and no snapshot: of a folder of checkpoints, with times in their names, "
            f"`unitgain ema convert {shlex.quote(str(path.parent))} OUT` makes those"
        )
    return "" if kind in (TEXT, UNKNOWN, SAFETENSORS) else f"is no snapshot: it is {kind}"
