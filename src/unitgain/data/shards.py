"""The prepared form on disk, written shard by shard so that an interrupted job goes on where it was.

A folder that the `datasets` library opens with `load_from_disk`: Arrow files `data-00000.arrow`, ... of one record
batch each, `dataset_info.json` and `state.json`; and `unitgain.json`, which says what is in it. That is written last: a
folder with it is whole. Until then `.unfinished/` holds the settings of the job and the size and hash of each finished
shard.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.manifest import MANIFEST, UNFINISHED, DataError, Manifest, Shard, read_json, read_manifest
from unitgain.extras import require
from unitgain.files import atomic, require_empty, sha256, sweep, write_text
from unitgain.files import damage as file_damage
from unitgain.serial import differences, digest, from_dict, to_dict

SKIPPED = "skipped.jsonl"
SETTINGS = "settings.json"
EXTRA = "data"
LIMIT = "max_item_bytes"
Column = list[bytes] | list[str] | list[int]


# Changes nothing of what is there: whether source and VAE are others shows in their fingerprints. Jobs of versions that
# did not know a setting go on.
HARMLESS = ("source: ", "vae: ", "batch: ", "source_rows: None -> ", f"{LIMIT}: None -> ")
HARMLESS += ("allow_missing: None -> False",)
WIDER = ("allow_missing: False -> True", "allow_missing: None -> True")  # so is this, where nothing was left out
ROWS_CHANGED = "source_rows: other pictures are chosen, or have other classes, or files that they name changed"


class ShardWriter:
    """Writes a prepared folder; a second one for the same job goes on with what the first has finished.

    Args:
        folder: where; empty, or left by a job with the same settings.
        settings: of the job; JSON values.

    Attributes:
        finished: the manifest, if there is nothing left to do.
        shards: the finished ones, by number; each was read and found whole.

    Raises:
        FileExistsError: if the folder holds something else.
        ValueError: if it holds a job with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, to_dict(dict(settings))
        self.journal = folder / UNFINISHED
        self.finished = read_manifest(folder) if (folder / MANIFEST).is_file() else None
        if self.finished is not None:
            self._refuse(self.finished.settings, "prepared data made", self.finished.skipped > 0)
            shutil.rmtree(self.journal, ignore_errors=True)
            self.shards = dict(enumerate(self.finished.shards))
            return
        check_destination(folder)
        journal = self._read_journal()
        self._begin(any(shard.skipped for shard in journal.values()))
        self.shards = {index: shard for index, shard in journal.items() if not damage(folder, shard)}

    def _begin(self, skipped: bool) -> None:
        path = self.journal / SETTINGS
        if path.exists():
            self._refuse(read_json(path), "an unfinished job", skipped)
        write_text(path, json.dumps(self.settings, indent=1) + "\n")
        sweep(self.folder)
        sweep(self.journal)

    def abandon(self) -> None:
        """Let go of the folder if nothing is finished yet, so that a job with other settings may follow."""
        if not any(self.journal.glob("[0-9]*.json")):
            (self.journal / SETTINGS).unlink(missing_ok=True)

    def _refuse(self, saved: dict[str, Any], what: str, skipped: bool) -> None:
        """Raise if the settings are not those of what is there; `skipped` says whether rows of it were left out."""
        changes, harmless = differences(saved, self.settings), HARMLESS
        if not skipped:
            kept = self.finished is not None or self.settings.get(LIMIT, 0) >= saved.get(LIMIT, 0)
            harmless += (*WIDER, *((f"{LIMIT}: ",) if kept else ()))
        if not all(one.startswith(harmless) for one in changes):
            changes = [ROWS_CHANGED if one.startswith("source_rows: ") else one for one in changes]
            raise ValueError(
                f"{self.folder} holds {what} with other settings ({'; '.join(changes)}): use these, delete the folder, "
                "or choose another"
            )

    def _read_journal(self) -> dict[int, Shard]:
        shards = {}
        for path in sorted(self.journal.glob("[0-9]*.json")):
            try:
                shard = from_dict(Shard, read_json(path))
            except ValueError as error:
                raise DataError(f"{path} is damaged: delete {self.folder} and start again; {error}") from error
            shards[int(path.stem)] = shard
        return shards

    def write(self, index: int, columns: Mapping[str, Column], **entry: Any) -> Shard:
        """Write shard number `index`; atomic, so that what is there is whole.

        Args:
            index: of the shard.
            columns: bytes, text or whole numbers by name; with no rows no file is written.
            entry: fields of `Shard` but for the file's own.

        Raises:
            ValueError: if a column takes more than Arrow's 2 GiB.
        """
        rows = len(next(iter(columns.values())))
        name = f"data-{index:05d}.arrow"
        path = self.folder / name
        size, digest = 0, ""
        if rows:
            pa = require("pyarrow", extra=EXTRA)
            batch = pa.record_batch({name: _array(values) for name, values in columns.items()})
            with atomic(path) as temporary:
                with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
                    stream.write_batch(batch)
                size, digest = temporary.stat().st_size, sha256(temporary)
        shard = Shard(file=name, rows=rows, bytes=size, sha256=digest, **entry)
        write_text(self.journal / f"{index:05d}.json", json.dumps(to_dict(shard)) + "\n")
        self.shards[index] = shard
        return shard

    def finish(self, features: Mapping[str, Any], **entry: Any) -> Manifest:
        """Write what makes the shards a data set.

        Args:
            features: of the columns, as the `datasets` library writes them.
            entry: fields of `Manifest` but for what follows from the shards.

        Raises:
            DataError: if no image is left.
        """
        parts = [self.shards[index] for index in sorted(self.shards)]
        skipped = [row for part in parts for row in part.skipped]
        rows = sum(part.rows for part in parts)
        if not rows:
            first = f"; the first: {skipped[0].key} {skipped[0].error}" if skipped else ""
            raise DataError(f"no image is left: all {len(skipped)} could not be used{first}")
        if skipped:
            write_text(self.folder / SKIPPED, "".join(json.dumps(to_dict(row)) + "\n" for row in skipped))
        full = tuple(dataclasses.replace(part, skipped=()) for part in parts if part.rows)
        mean, std = moments(full)
        manifest = Manifest(
            **{"mean": mean, "std": std, **entry},
            rows=rows,
            enlarged=sum(part.enlarged for part in full),
            skipped=len(skipped),
            settings=self.settings,
            shards=full,
            fingerprint=fingerprint([part.sha256 for part in full], entry["classes"], entry.get("encoder")),
        )
        files = [{"filename": part.file} for part in full]
        state = {"_data_files": files, "_fingerprint": manifest.fingerprint[:16], "_format_columns": None}
        state |= {"_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}
        write_text(self.folder / "dataset_info.json", json.dumps({"features": dict(features)}, indent=1) + "\n")
        write_text(self.folder / "state.json", json.dumps(state, indent=1) + "\n")
        write_text(self.folder / MANIFEST, json.dumps(to_dict(manifest), indent=1) + "\n")
        shutil.rmtree(self.journal)
        return manifest


def _array(values: Column) -> Any:
    """An Arrow array of its buffers: `pyarrow.array` would import pandas first, which takes half a second."""
    pa = require("pyarrow", extra=EXTRA)
    parts = [value.encode() if isinstance(value, str) else value for value in values if not isinstance(value, int)]
    if not parts:
        return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.array(values, np.int64))])
    ends = np.cumsum([0, *map(len, parts)])
    if ends[-1] >= 2**31:
        raise ValueError(f"{len(values)} rows take {ends[-1]:,} bytes, over the 2 GiB of a file: set a smaller --shard")
    kind = pa.string() if isinstance(values[0], str) else pa.binary()
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(kind, len(parts), buffers)


def check_destination(folder: Path) -> None:
    """Check that a job may write to a folder: there is none, it is empty, or an unfinished job left it.

    Raises:
        FileExistsError: if it holds something else.
    """
    left = folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())
    if not left and not (folder / UNFINISHED / SETTINGS).exists() and not (folder / MANIFEST).exists():
        require_empty(folder)


def features(column: str, classes: Sequence[str] | None, conditions: Sequence[str] = ()) -> dict[str, Any]:
    """The columns of a prepared folder as the `datasets` library describes them."""
    described: dict[str, Any] = {column: {"dtype": "binary", "_type": "Value"}}
    if classes is not None:
        described["label"] = {"names": list(classes), "_type": "ClassLabel"}
    described["key"] = {"dtype": "string", "_type": "Value"}
    return described | {name: {"dtype": "binary", "_type": "Value"} for name in conditions}


def damage(folder: Path, shard: Shard) -> str:
    """What is wrong with the file of a shard; empty if nothing is."""
    why = file_damage(folder / shard.file, shard.bytes, shard.sha256) if shard.rows else ""
    return f"{shard.file} {why}" if why else ""


def fingerprint(parts: Sequence[str], classes: Sequence[str] | None, encoder: Mapping[str, Any] | None) -> str:
    """Of a data set: its bytes, classes and encoder."""
    return digest([list(parts), classes, encoder])


def moments(parts: Sequence[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, from the `values`, `sums` and `squares` of shards or other parts."""
    values = max(sum(part.values for part in parts), 1)
    mean = np.sum([part.sums for part in parts], axis=0) / values
    square = np.sum([part.squares for part in parts], axis=0) / values
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(mean.tolist()), tuple(std.tolist())


def latent_sums(stored: NDArray[np.float32]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Expected sums of latents drawn from means and standard deviations `[n, 2 C, h, w]`, and of their squares."""
    mean, std = np.split(stored.astype(np.float64), 2, axis=1)
    squares = (mean**2 + std**2).sum(axis=(0, 2, 3))
    return tuple(mean.sum(axis=(0, 2, 3)).tolist()), tuple(squares.tolist())


def array_sums(stored: NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Sums of arrays `[n, C, *size]` per channel, and of their squares."""
    values = stored.astype(np.float64)
    others = tuple(axis for axis in range(stored.ndim) if axis != 1)
    return tuple(values.sum(axis=others).tolist()), tuple(np.square(values).sum(axis=others).tolist())
