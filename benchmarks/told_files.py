"""Files of arrays, and of what networks are told: good ones for `robustness.py`, and how they are opened."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TOKENS = [[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], [[0.5, 0.25]]]
ASKED = ("age", "style", "text", "small")
ROWS = range(4)


def array(row: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(row).normal(size=shape).astype(np.float32)


def told(row: int) -> dict[str, Any]:
    """What a row has: a number, a vector, tokens and a small image."""
    return {"age": 10 * row, "style": [row, 0.5, -1.0], "text": TOKENS[row], "small": f"small/{row}.png"}


def pictures(folder: Path) -> dict[str, bytes]:
    from pictures import encoded, picture

    images = {f"images/{row}.png": encoded(picture(row, 8, 8)) for row in ROWS}
    return images | {f"small/{row}.png": encoded(picture(row, 4, 4)) for row in ROWS}


def lines(column: str, prefix: str = "") -> list[dict[str, Any]]:
    return [{column: f"images/{row}.png", "label": row % 2} | told(row) for row in ROWS]


def written(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def csv_table(folder: Path) -> Path:
    written(folder, pictures(folder))
    rows = [",".join(lines("image")[0])]
    for line in lines("image"):
        cells = [str(cell) if not isinstance(cell, list) else f'"{json.dumps(cell)}"' for cell in line.values()]
        rows.append(",".join(cells))
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder / "table.csv"


def jsonl(name: str, column: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        written(folder, pictures(folder))
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines(column)))
        return folder / name

    return make


def parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = pictures(folder)
    rows = [
        line | {"image": {"bytes": files[line["image"]], "path": None}, "small": {"bytes": files[line["small"]]}}
        for line in lines("image")
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "set.parquet")
    return folder / "set.parquet"


def tar(folder: Path) -> Path:
    """As WebDataset has them: JSON and a small image beside each picture."""
    files = pictures(folder)
    with tarfile.open(folder / "set.tar", "w") as archive:
        for row in ROWS:
            about = {name: cell for name, cell in told(row).items() if name != "small"}
            sample = {"png": files[f"images/{row}.png"], "small": files[f"small/{row}.png"]}
            sample |= {"json": json.dumps(about).encode()}
            for ending, data in sample.items():
                member = tarfile.TarInfo(f"{row}.{'small.png' if ending == 'small' else ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return folder / "set.tar"


def stacks() -> dict[str, np.ndarray]:
    return {"x": array(0, 4, 2, 16), "age": np.arange(4.0), "style": array(1, 4, 3), "text": array(2, 4, 5, 2)} | {
        "small": array(3, 4, 2, 8)
    }


def npz(folder: Path) -> Path:
    np.savez_compressed(folder / "x.npz", **stacks())
    return folder / "x.npz"


def hdf5(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "x.h5", "w") as file:
        for name, values in stacks().items():
            file[name] = values
    return folder / "x.h5"


def signal(folder: Path) -> Path:
    import soundfile

    soundfile.write(folder / "x.wav", array(0, 64).clip(-1, 1), 8000)
    return folder / "x.wav"


def volume(packed: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import nibabel

        nibabel.save(nibabel.Nifti1Image(array(0, 6, 5, 4), np.eye(4)), folder / f"x.nii{packed}")
        return folder / f"x.nii{packed}"

    return make


def field(folder: Path) -> Path:
    np.save(folder / "x.npy", array(0, 5, 12, 8))
    return folder / "x.npy"


def open_array(path: Path) -> None:
    """A file as an array of a set of its own."""
    from unitgain.data.arrays import sample_of
    from unitgain.data.fit import Fit
    from unitgain.data.media import read_raw
    from unitgain.trust import DEFAULT_LIMITS

    layout = "channels-first" if path.suffix == ".npy" else None
    if (raw := read_raw(path.read_bytes(), path.name, DEFAULT_LIMITS)) is not None:
        sample_of(raw, Fit(resolution=None, layout=layout))


def open_told(path: Path) -> None:
    """All rows of a source with their conditions, as `unitgain data prepare` makes them."""
    from unitgain.data.fit import Fit
    from unitgain.data.rows import fit_item
    from unitgain.data.sources import SourceOptions, open_source

    folder = path.name.startswith("metadata.")
    asked = tuple(f"small={'small.png' if path.suffix == '.tar' else 'small'}" if x == "small" else x for x in ASKED)
    options = SourceOptions(conditions=asked, allow_missing=True)
    source = open_source(str(path.parent if folder else path), path.parent, options)
    fit = Fit(resolution=None if path.suffix in (".npz", ".h5") else 8, layout=None)
    for item in source.read():
        fit_item(item, fit, source.options.limits, None, True)


def prepared(folder: Path) -> Path:
    """Prepared arrays with conditions."""
    from unitgain.data.fit import Fit
    from unitgain.data.prepare import prepare_data
    from unitgain.data.sources import SourceOptions

    options = SourceOptions(conditions=ASKED)
    prepare_data(
        str(npz(folder)), folder / "data", Fit(resolution=None, layout="channels-first"), options=options, workers=1
    )
    return next((folder / "data").glob("*.arrow"))


def prepared_manifest(folder: Path) -> Path:
    return prepared(folder).parent / "unitgain.json"


def open_prepared(path: Path) -> None:
    from unitgain.data.prepared import PreparedDataset

    dataset = PreparedDataset(path.parent)
    rows = np.arange(min(len(dataset), 64))
    dataset.rows(rows)
    dataset.conditions_of(rows)


def conditions() -> tuple:
    """Of a network."""
    from unitgain import conditions as kinds

    return (
        kinds.Scalar(name="age", scale=3.0, dropout=0.1),
        kinds.Vector(name="style", dim=3),
        kinds.Image(name="small", channels=1),
        kinds.Tokens(name="text", dim=2, resolutions=(8,)),
    )
