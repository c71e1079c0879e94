"""Arrays, audio and volumes that someone made to do harm: each ends in an error that says so, with little memory."""

import gzip
import io
import pickle
import random
import struct
import zipfile

import h5py
import numpy as np
import pytest
import soundfile
from bounded import outcome
from hostile import use
from samples import nifti, npy, tone, values, write_array

from unitgain.data.fit import Fit
from unitgain.data.prepare import prepare_data
from unitgain.data.rows import fit_item
from unitgain.data.sources import Item, SourceOptions
from unitgain.trust import Limits

PLAIN = Fit(resolution=None, layout="channels-first")
SMALL = Limits(max_item_bytes=10**6)


def row_of(name, content, limits=SMALL):
    """What became of a file: its error, empty if it could be used."""
    return fit_item(Item(name, lambda: content), PLAIN, limits).error


def header(shape, kind="<f4"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(content, name="a.npy"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def hdf5(path, fill):
    with h5py.File(path, "w") as file:
        fill(file)
    return path.read_bytes()


def volume(**fields):
    image = nifti(values((4, 4, 4)))
    for name, value in fields.items():
        image.header[name] = value
    return image.header.binaryblock + bytes(4) + image.get_fdata().astype("<f4").tobytes()


def wav(frames):
    """A WAV file that promises more than it holds."""
    data = bytearray(wave_bytes())
    place = data.index(b"data")
    data[place + 4 : place + 8] = struct.pack("<I", 2 * frames)
    data[4:8] = struct.pack("<I", 2 * frames + place)
    return bytes(data)


def wave_bytes(format="WAV"):
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(500), 8000, format=format)
    return buffer.getvalue()


class Payload:
    def __reduce__(self):
        return (print, ("this must not run",))


OBJECTS = header("(1,)", "|O") + pickle.dumps([Payload()])
CASES = {
    "header.npy": (header("(1, 1000000000000)"), "where 0 are"),
    "negative.npy": (header("(-1, -5)") + bytes(20), "promises"),
    "deep.npy": (header("(" * 3000), "header cannot be read"),
    "objects.npy": (OBJECTS, "objects are not read"),
    "objects.npz": (zipped(OBJECTS), "objects are not read"),
    "bomb.npz": (zipped(header("(1, 250000000)") + bytes(10**9)), "raise --max-item-bytes"),
    "nothing.npz": (zipped(b""), "cannot be read"),
    "none.npz": (zipped(b"", "a.txt")[:-5], "cannot be read"),
    "huge.nii": (volume(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "raise --max-item-bytes"),
    "longer.nii": (volume(dim=[3, 4, 4, 5, 1, 1, 1, 1]), "its header promises"),
    "negative.nii": (volume(dim=[3, -4, -4, 4, 1, 1, 1, 1]), ""),
    "place.nii": (volume(vox_offset=np.nan), "cannot be read"),
    "colours.nii": (volume(datatype=128, bitpix=24), ""),
    "bomb.nii.gz": (gzip.compress(volume(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])), "raise --max-item-bytes"),
    "broken.nii.gz": (gzip.compress(volume())[:60], "NIfTI"),
    "header.wav": (wave_bytes()[:20], "cannot be read"),
    "rate.wav": (wave_bytes()[:24] + (2**30).to_bytes(4, "little") + wave_bytes()[28:], "what cannot be"),
    "short.flac": (wave_bytes("FLAC")[:60], "cannot be read"),
    "short.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "cannot be read"),
}


@pytest.mark.parametrize("name", CASES)
def test_files_end_in_an_error(name):
    content, why = CASES[name]
    kind, text = outcome(row_of, name, content)
    assert kind == "returned" and text and why in text, text


def test_audio_is_as_long_as_its_file():
    assert outcome(row_of, "a.wav", wav(2**30)) == ["returned", ""]  # as far as it goes


def test_what_follows_a_packed_volume_is_not_unpacked():
    content = gzip.compress(volume() + bytes(2**30))
    assert outcome(row_of, "a.nii.gz", content, megabytes=200) == ["returned", ""]


def fill_external(file):
    file["a"] = h5py.ExternalLink("/etc/passwd", "/a")


def fill_elsewhere(file):
    file.create_dataset("a", (1, 64), "u1", external=[("/etc/passwd", 0, 64)])


def fill_virtual(file):
    layout = h5py.VirtualLayout((1, 64), "u1")
    layout[...] = h5py.VirtualSource("/etc/passwd", "a", (1, 64))
    file.create_virtual_dataset("a", layout)


def fill_soft(file):
    file["b/c"] = values((1, 8))
    file["a"] = h5py.SoftLink("/b/c")


def fill_huge(file):
    file.create_dataset("a", (1, 10**11), "f4", chunks=(1, 10**4), compression="gzip")


def fill_part(file):
    file.create_dataset("a", (1, 64), "u1", maxshape=(None, None), chunks=(1, 2**28), compression="gzip")


def fill_text(file):
    file.create_dataset("a", (4, 2), h5py.string_dtype())


def fill_group(file):
    file.create_group("a")


@pytest.mark.parametrize(
    "fill, why",
    [
        (fill_external, "holds no array"),
        (fill_soft, "holds no array"),
        (fill_group, "holds no array"),
        (fill_elsewhere, "lie in other files, which are not opened"),
        (fill_virtual, "lie in other files, which are not opened"),
        (fill_huge, "raise --max-item-bytes"),
        (fill_part, "a part of its array, unpacked"),
        (fill_text, "whole or floating numbers"),
    ],
)
def test_hdf5_files_hold_their_values_themselves(tmp_path, fill, why):
    content = hdf5(tmp_path / "a.h5", fill)
    kind, text = outcome(row_of, "a.h5", content)
    assert kind == "returned" and why in text, text
    if fill not in (fill_huge, fill_part):  # of stacks a row counts, and 500 MB
        kind, text = outcome(lambda: prepare_data(str(tmp_path / "a.h5"), tmp_path / "data", PLAIN, workers=1).rows)
        assert kind == "ValueError" and str(tmp_path) in text


def test_parts_of_stacks_are_small(tmp_path):
    def fill(file):
        file.create_dataset("a", (10**6, 4, 1000), "f4", chunks=(10**5, 4, 1000), compression="gzip")

    hdf5(tmp_path / "a.h5", fill)
    kind, text = outcome(lambda: prepare_data(str(tmp_path / "a.h5"), tmp_path / "data", PLAIN, workers=1).rows)
    assert kind == "ValueError" and "a part of its array, unpacked" in text


def test_rows_of_conditions_are_small(tmp_path):
    def fill(file):
        file["x"] = values((4, 1, 8))
        file.create_dataset("c", (4, 10**11), "f4", chunks=(1, 10**4), compression="gzip")

    hdf5(tmp_path / "a.h5", fill)
    options = SourceOptions(conditions=("c",))
    kind, text = outcome(lambda: prepare_data(str(tmp_path / "a.h5"), tmp_path / "d", PLAIN, options=options).rows)
    assert kind == "ValueError" and "a row of 'c'" in text


def test_labels_are_no_longer_than_may_be(tmp_path):
    """Ten thousand labels that all are the same text of 100 kB, which is in the file once."""

    def fill(file):
        file["x"] = values((10**4, 1, 2))
        file.create_dataset("y", data=["n" * 10**5] + ["n"] * (10**4 - 1), dtype=h5py.string_dtype())

    path = tmp_path / "a.h5"
    hdf5(path, fill)
    with h5py.File(path) as file:
        place = file["y"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 16 * 10**4] = 10**4 * content[place : place + 16]
    path.write_bytes(content)
    options = SourceOptions(limits=Limits(max_item_bytes=10**7))
    kind, text = outcome(lambda: prepare_data(str(path), tmp_path / "d", PLAIN, options=options).rows)
    assert kind == "ValueError" and "its labels takes" in text


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".wav", ".flac", ".ogg", ".nii", ".nii.gz"])
def test_any_byte_may_be_wrong(tmp_path, suffix):
    """Whatever bytes are changed, the file can be used, or an error says why not."""
    path = tmp_path / f"a{suffix}"
    if suffix in (".npy", ".npz", ".h5"):
        write_array(path, values((2, 50)))
    elif suffix.startswith(".nii"):
        nifti(values((4, 4, 4))).to_filename(path)
    else:
        soundfile.write(path, tone(500), 8000)
    whole = path.read_bytes()

    def all_of_them():
        draw = random.Random(0)
        for _ in range(60):
            content = bytearray(whole)
            for _ in range(draw.choice((1, 1, 5))):
                most = len(content) if draw.random() < 0.5 else min(len(content), 400)
                content[draw.randrange(most)] ^= 1 << draw.randrange(8)
            content = content[: draw.randrange(len(content))] if draw.random() < 0.2 else content
            row = fit_item(Item(f"a{suffix}", lambda content=content: bytes(content)), PLAIN, SMALL)
            assert (row.data is None) == bool(row.error)
            assert row.error.isprintable()

    assert outcome(all_of_them) == ["returned", None]


def test_stacks_of_objects_are_not_opened(tmp_path):
    for name, content in (("a.npy", OBJECTS), ("a.npz", zipped(OBJECTS))):
        (tmp_path / name).write_bytes(content)
        kind, text = outcome(lambda name=name: use(prepare_data(str(tmp_path / name), tmp_path / "d", PLAIN)))
        assert kind == "ValueError" and "objects are not read" in text


def test_tables_lead_nowhere(tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "secret.npy").write_bytes(npy(values((1, 8))))
    (tmp_path / "table" / "link.npy").symlink_to(tmp_path / "secret.npy")
    for name in ("../secret.npy", "link.npy", str(tmp_path / "secret.npy")):
        (tmp_path / "table" / "t.csv").write_text(f"image\n{name}\n")
        kind, text = outcome(lambda: prepare_data(str(tmp_path / "table" / "t.csv"), tmp_path / "d", PLAIN).rows)
        assert kind == "BrokenPictureError" and "leads out of" in text
