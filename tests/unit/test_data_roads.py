"""Conditions of pictures in folders, archives and sets of `datasets`: declared and read as those of tables are."""

import json
import zipfile

import datasets
import numpy as np
import pytest
import torch
from pictures import encoded, picture, tar_of
from test_data_pairs import table_of

from unitgain.data.fit import Fit
from unitgain.data.prepare import BrokenPictureError, prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.sources import SourceOptions, open_source

PICTURES = {f"images/{row}.png": encoded(picture(row, 8, 8)) for row in range(3)}
SMALL = {f"small/{row}.png": encoded(picture(10 + row, 4, 4)) for row in range(3)}
TOKENS = [[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]]]
ASKED = ("age", "less=small", "tokens")
ROWS = [
    {"file_name": f"images/{row}.png", "label": "ab"[row % 2], "age": 10 * row, "small": f"small/{row}.png"}
    | {"tokens": TOKENS[row], "words": "a cat"}
    for row in range(3)
]


def write(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def csv_of(folder, rows):
    path = table_of(folder / "table.csv", rows)
    data = path.read_bytes()
    path.unlink()
    return data


def jsonl_of(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def zip_of(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def folder(place):
    return write(place / "set", {**PICTURES, **SMALL, "metadata.csv": csv_of(place, ROWS)})


def folder_of_lines(place):
    return write(place / "set", {**PICTURES, **SMALL, "metadata.jsonl": jsonl_of(ROWS)})


def zipped(place):
    return zip_of(place / "set.zip", {**PICTURES, **SMALL, "metadata.jsonl": jsonl_of(ROWS)})


def tar_with_a_table(place):
    return tar_of(place / "set.tar", {**PICTURES, **SMALL, "metadata.csv": csv_of(place, ROWS)})


def tar_with_json(place):
    about = {f"images/{row}.json": json.dumps(ROWS[row] | {"small": f"../small/{row}.png"}) for row in range(3)}
    return tar_of(place / "set.tar", {**PICTURES, **SMALL, **{name: text.encode() for name, text in about.items()}})


def tar_of_samples(place):
    """As WebDataset has it: all that is of a sample shares its name up to the first dot."""
    files = {}
    for row in range(3):
        files[f"{row}.png"], files[f"{row}.small.png"] = PICTURES[f"images/{row}.png"], SMALL[f"small/{row}.png"]
        files[f"{row}.json"] = json.dumps({name: ROWS[row][name] for name in ("label", "age", "tokens")}).encode()
    return tar_of(place / "set.tar", files)


def set_of_datasets(place):
    rows = [
        {"image": {"bytes": PICTURES[row["file_name"]], "path": None}, "label": row["label"], "age": row["age"]}
        | {"small": {"bytes": SMALL[row["small"]], "path": None}, "tokens": row["tokens"]}
        for row in ROWS
    ]
    return datasets.Dataset.from_list(rows)


def saved(place):
    set_of_datasets(place).save_to_disk(place / "set")
    return place / "set"


def made(what, place, **options):
    prepare_data(str(what), place / "data", Fit(resolution=8), options=SourceOptions(**options), workers=1, shard=2)
    return PreparedDataset(place / "data")


def check(data):
    """What is stored is what was there."""
    assert len(data) == 3 and data.classes == ("a", "b") and data.labels.tolist() == [0, 1, 0]
    assert dict(data.condition_shapes) == {"age": (), "less": (3, 4, 4), "tokens": (None, 2)}
    told = data.conditions_of(np.arange(3))
    assert told.values["age"].tolist() == [0, 10, 20]
    small = np.stack([np.asarray(picture(10 + row, 4, 4)).transpose(2, 0, 1) for row in range(3)])
    assert np.array_equal(told.values["less"].add(1).mul(127.5).round().numpy(), small)
    assert told.values["tokens"][2].tolist() == TOKENS[2] and told.masks["tokens"].sum(1).tolist() == [1, 0, 2]


ROADS = [folder, folder_of_lines, zipped, tar_with_a_table, tar_with_json, saved]


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
def test_every_road_leads_to_the_same_values(tmp_path, road):
    check(made(road(tmp_path), tmp_path, conditions=ASKED))


def test_files_of_a_sample_are_conditions_by_what_their_names_end_in(tmp_path):
    check(made(tar_of_samples(tmp_path), tmp_path, conditions=("age", "less=small.png", "tokens")))


def test_tables_of_one_folder_complete_one_another(tmp_path):
    names = [row["file_name"] for row in ROWS]
    labels = csv_of(tmp_path, [{"file": name, "label": "ab"[row % 2]} for row, name in enumerate(names)])
    ages = csv_of(
        tmp_path, [{"file_name": row["file_name"], "age": row["age"], "tokens": row["tokens"]} for row in ROWS]
    )
    rest = jsonl_of([{"file_name": row["file_name"], "small": row["small"]} for row in ROWS])
    files = {"labels.csv": labels, "metadata.csv": ages, "metadata.jsonl": rest}
    check(made(write(tmp_path / "set", {**PICTURES, **SMALL, **files}), tmp_path, conditions=ASKED))


def test_streams_of_the_hub_bring_conditions(tmp_path):
    (tmp_path / "set").mkdir()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "age": datasets.Value("int64"),
            "small": datasets.Image(),
            "tokens": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
        }
    )
    rows = [row | {"label": "ab".index(row["label"])} for row in set_of_datasets(tmp_path)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    check(made(f"hub:{tmp_path / 'set'}", tmp_path, conditions=ASKED))
    with pytest.raises(ValueError, match="has no column 'agee'; did you mean 'age'"):
        open_source(f"hub:{tmp_path / 'set'}", tmp_path, SourceOptions(conditions=("agee",)))


def test_what_nobody_names_is_no_condition(tmp_path):
    rows = [row | {"condition": "a sprite", "vector": "none"} for row in ROWS]
    root = write(tmp_path / "set", {**PICTURES, "metadata.csv": csv_of(tmp_path, rows), "more.csv": b"\xff"})
    assert not made(root, tmp_path).condition_shapes
    assert not made(saved(tmp_path / "other"), tmp_path / "other").condition_shapes


def test_a_call_that_missed_a_value_goes_on_with_missing_values_allowed(tmp_path):
    rows = [ROWS[0], ROWS[1], ROWS[2] | {"age": None}]
    root = write(tmp_path / "set", {**PICTURES, "metadata.jsonl": jsonl_of(rows)})
    with pytest.raises(BrokenPictureError, match="--allow-missing"):
        made(root, tmp_path, conditions=("age",))
    assert len(list((tmp_path / "data").glob("*.arrow"))) == 1  # finished before the value that is missing
    data = made(root, tmp_path, conditions=("age",), allow_missing=True)
    assert data.conditions_of(np.arange(3)).masks["age"].tolist() == [True, True, False]
    with pytest.raises(ValueError, match="allow_missing: True -> False"):
        made(root, tmp_path, conditions=("age",))


def test_a_picture_may_be_the_condition_of_another(tmp_path):
    rows = [{"file_name": f"{row}.png", "before": f"{max(row - 1, 0)}.png"} for row in range(3)]
    pictures = {f"{row}.png": PICTURES[f"images/{row}.png"] for row in range(3)}
    data = made(
        write(tmp_path / "set", {**pictures, "metadata.jsonl": jsonl_of(rows)}), tmp_path, conditions=("before",)
    )
    assert len(data) == 3
    seen = data.encode(data.rows(np.array([0, 0, 1]))[0])
    torch.testing.assert_close(data.conditions_of(np.arange(3)).values["before"], seen)


def test_tables_speak_of_their_folder_and_below(tmp_path):
    files = {f"{name}/deep/{row}.png": PICTURES[f"images/{row}.png"] for name in "ab" for row in range(2)}
    for number, name in enumerate("ab"):
        rows = [{"file_name": f"deep/{row}.png", "age": 10 * number + row} for row in range(2)]
        files[f"{name}/metadata.jsonl"] = jsonl_of(rows)
    data = made(write(tmp_path / "set", files), tmp_path, conditions=("age",))
    assert data.conditions_of(np.arange(4)).values["age"].tolist() == [0, 1, 10, 11]
    assert data.classes == ("a", "b")


@pytest.mark.parametrize("cell", ["../secret.png", "/etc/passwd", "images/../../secret.png"])
@pytest.mark.parametrize("road", ["folder", "zip"])
def test_paths_stay_within_the_source(tmp_path, road, cell):
    (tmp_path / "secret.png").write_bytes(SMALL["small/0.png"])
    files = {**PICTURES, "metadata.jsonl": jsonl_of([row | {"small": cell} for row in ROWS])}
    what = write(tmp_path / "set", files) if road == "folder" else zip_of(tmp_path / "set.zip", files)
    with pytest.raises(BrokenPictureError, match=r"leads out of|no such file is there"):
        made(what, tmp_path, conditions=("small",))


def test_what_is_missing_is_said(tmp_path):
    some = write(tmp_path / "some", {**PICTURES, "metadata.jsonl": jsonl_of(ROWS[:2])})
    with pytest.raises(BrokenPictureError, match=r"images/2.png has no value of the condition 'age'.*--allow-missing"):
        made(some, tmp_path, conditions=("age",), no_labels=True)
    data = made(some, tmp_path, conditions=("age",), no_labels=True, allow_missing=True)
    assert data.conditions_of(np.arange(3)).masks["age"].tolist() == [True, True, False]
    with pytest.raises(ValueError, match="has no column 'agee'; did you mean 'age'"):
        open_source(str(some), tmp_path, SourceOptions(conditions=("agee",)))
    none = write(tmp_path / "none", PICTURES)
    with pytest.raises(ValueError, match=r"conditions age: .* has none; they come from a table .*metadata.csv"):
        open_source(str(none), tmp_path, SourceOptions(conditions=("age",)))
    words = write(tmp_path / "words", {**PICTURES, "metadata.jsonl": jsonl_of(ROWS)})
    with pytest.raises(BrokenPictureError, match=r"'words' that cannot be used: it is text, 'a cat', .*embedded first"):
        made(words, tmp_path / "words-data", conditions=("words",))


def test_prepared_data_are_no_source_of_conditions(tmp_path):
    made(folder(tmp_path), tmp_path, conditions=ASKED)
    assert open_source(str(tmp_path / "data"), tmp_path).conditioned == ()
    with pytest.raises(ValueError, match="prepared data, of which pictures and classes are taken alone"):
        open_source(str(tmp_path / "data"), tmp_path, SourceOptions(conditions=("age",)))


def test_a_source_whose_conditions_changed_is_another_source(tmp_path):
    def fingerprint():
        return open_source(str(tmp_path / "set"), tmp_path, SourceOptions(conditions=ASKED)).fingerprint

    folder(tmp_path)
    first = fingerprint()
    assert fingerprint() == first
    write(tmp_path / "set", {"small/0.png": SMALL["small/1.png"] + b"\0"})
    second = fingerprint()
    assert second != first
    changed = [row | {"age": 7} for row in ROWS]
    write(tmp_path / "set", {"metadata.csv": csv_of(tmp_path, changed)})
    assert fingerprint() not in (first, second)


def test_a_table_that_is_used_is_not_said_to_be_unused(tmp_path):
    rows = [{name: cell for name, cell in row.items() if name != "label"} for row in ROWS]
    root = write(tmp_path / "set", {**PICTURES, **SMALL, "metadata.jsonl": jsonl_of(rows)})
    assert not open_source(str(root), tmp_path, SourceOptions(conditions=ASKED, no_labels=True)).notes
    notes = open_source(str(root), tmp_path, SourceOptions(conditions=(), split=None, no_labels=True)).notes
    assert notes == ()
    (note,) = open_source(str(root), tmp_path, SourceOptions(conditions=())).notes[:1]
    assert "hold no labels and were not used: metadata.jsonl" in note
