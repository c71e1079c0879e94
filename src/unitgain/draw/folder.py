"""A folder of images that grows, is gone on with after an interruption, and says how each of them was made.

Images lie a thousand to a folder, as `<thousand>/<seed>.png`. While they are drawn each process keeps a journal of what
it has finished, with the hash of each file; in the end `manifest.json` takes the place of the journals.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from unitgain.data.images import to_image
from unitgain.files import require_empty, write_text
from unitgain.sample.seeds import SEEDS
from unitgain.serial import differences
from unitgain.trust import DEFAULT_LIMITS, LimitError, open_own, parse_json, read_regular, read_rows

MANIFEST = "manifest.json"
GRID = "grid.png"
FORMAT = "unitgain-images/1"
Entry = dict[str, Any]  # seed, class, file, sha256


class ImageFolder:
    """Images in a folder.

    Args:
        root: the folder.
        made: how they are made, as JSON; images that were made otherwise are refused.
        name: of the folder in messages.
        rank: of the process that writes.
    """

    def __init__(self, root: Path, made: dict[str, Any], name: Path | None = None, rank: int = 0) -> None:
        self.root = root
        self.made = json.loads(json.dumps(made, allow_nan=False))
        self.name = name or root
        self._journal = root / f".journal-{rank}.jsonl"
        self._begun = False

    def check(self) -> None:
        """See that the folder is new, or holds images that were made in the same way.

        Raises:
            FileExistsError: if it holds something else.
            ValueError: if it holds images that were made otherwise.
        """
        if not self._journals() and not self._manifest():
            require_empty(self.root)
        for found in self._headers():
            changes = differences(_identity(found), _identity(self.made))
            if changes:
                raise ValueError(
                    f"{self.name} holds images that were made otherwise ({'; '.join(changes)}): "
                    "choose another --out, or repeat those settings to go on"
                )

    def finished(self) -> dict[int, Entry]:
        """The images that are there and whole, by seed; others that were listed count as not drawn."""
        return {entry["seed"]: entry for entry in self._listed() if self._whole(entry)}

    def write(self, seed: int, label: int | None, pixels: UInt8[Tensor, "c h w"]) -> None:
        """Write one image and note it in the journal of this process."""
        file = file_of(seed)
        buffer = io.BytesIO()
        to_image(pixels).save(buffer, format="PNG")
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.is_symlink():
            raise OSError(f"{path.parent} is a link, which is not followed: delete it")
        path.unlink(missing_ok=True)  # whatever it is: a link would lead the bytes elsewhere
        path.write_bytes(buffer.getvalue())  # not flushed: what a crash leaves is told by its hash
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        self._append({"seed": seed, "class": label, "file": file, "sha256": digest})

    def finish(self) -> list[Entry]:
        """Write the manifest, all images in the order of seeds, and remove the journals; returns its entries."""
        entries = list({entry["seed"]: entry for entry in sorted(self._listed(), key=lambda one: one["seed"])}.values())
        text = json.dumps({"format": FORMAT, **self.made, "images": entries}, indent=1, allow_nan=False)
        write_text(self.root / MANIFEST, text + "\n")
        for journal in self._journals():
            journal.unlink()
        return entries

    def _append(self, row: dict[str, Any]) -> None:
        rows = [row] if self._begun else [{"made": self.made}, row]
        with open(open_own(self._journal), "a", encoding="utf-8") as file:
            if not self._begun and file.seek(0, os.SEEK_END):
                file.write("\n")  # a process that was killed may have left half a line
            file.writelines(json.dumps(each) + "\n" for each in rows)
        self._begun = True

    def _journals(self) -> list[Path]:
        return sorted(self.root.glob(".journal-*.jsonl"))

    def _headers(self) -> list[dict[str, Any]]:
        """How the images in the folder say they were made."""
        headers = [{key: value for key, value in self._manifest().items() if key not in ("format", "images")}]
        headers += [row["made"] for row in self._rows() if isinstance(row.get("made"), dict)]
        return [header for header in headers if header]

    def _manifest(self) -> dict[str, Any]:
        try:
            found = parse_json(read_regular(self.root / MANIFEST, DEFAULT_LIMITS, below=self.root), MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except LimitError:
            raise
        except ValueError:
            return {}
        return found if isinstance(found, dict) and found.get("format") == FORMAT else {}

    def _listed(self) -> Iterator[Entry]:
        images = self._manifest().get("images")
        yield from filter(_is_entry, images if isinstance(images, list) else ())
        yield from filter(_is_entry, self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for journal in self._journals():
            yield from read_rows(journal, below=self.root)

    def _whole(self, entry: Entry) -> bool:
        try:
            content = read_regular(self.root / entry["file"], DEFAULT_LIMITS, below=self.root)
        except (OSError, LimitError):
            return False
        return hashlib.sha256(content).hexdigest() == entry["sha256"]


def file_of(seed: int) -> str:
    """Where the image of a seed lies in its folder."""
    return f"{seed - seed % 1000:06d}/{seed:06d}.png"


def _is_entry(found: object) -> bool:
    """Whether this is an entry as they are written here; its file is the one of its seed, and no path of others."""
    if not isinstance(found, dict) or found.keys() != {"seed", "class", "file", "sha256"}:
        return False
    seed, label = found["seed"], found["class"]
    if type(seed) is not int or not 0 <= seed < SEEDS or not (label is None or type(label) is int):
        return False
    return found["file"] == file_of(seed) and isinstance(found["sha256"], str)


def _identity(made: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for images to belong together: not the path of a network with a hash, nor versions."""
    kept = {key: value for key, value in made.items() if key != "software"}
    for key in ("network", "guide"):
        if isinstance(one := kept.get(key), dict) and "sha256" in one:
            kept[key] = {name: each for name, each in one.items() if name != "name"}
    return kept
