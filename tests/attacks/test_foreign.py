"""Checkpoints of other projects that someone made to do harm: each ends in a ValueError, without what it asks for.

Each call runs in a process with little memory, so that a crash and a flood are seen.
"""

import io
import zipfile

import pytest
import torch
from bounded import outcome

from unitgain.posthoc.convert import convert, find_sources

ONES = torch.ones(4, 3)
NESTED = {"w": ONES}
NESTED["itself"] = NESTED

NO_ARRAYS = {
    "a view of one number": ONES[:1, :1].expand(10**5, 10**5),
    "a view that lies over itself": torch.zeros(4096).as_strided((2048, 2048), (1, 1)),
    "sparse": torch.sparse_coo_tensor([[0], [10**9]], [1.0], (10**6, 10**10)),
    "sparse by rows": ONES.to_sparse_csr(),
    "without values": torch.empty(10**6, 10**6, device="meta"),
    "nested": torch.nested.nested_tensor([ONES, ONES]),
    "conjugated": ONES.to(torch.complex64).conj(),
    "negated": ONES.to(torch.complex64).conj().imag,
}
NO_DTYPES = {
    "float8": ONES.to(torch.float8_e4m3fn),
    "uint16": ONES.to(torch.uint16),
    "complex128": ONES.to(torch.complex128),
    "quantized": torch.quantize_per_tensor(ONES, 0.1, 0, torch.qint8),
    "of 40 dimensions": torch.zeros([1] * 40),
}


def converted(folder, saved):
    (folder / "in").mkdir()
    torch.save(saved, folder / "in" / "model-10.pt")
    return outcome(lambda: [path.name for path in convert(find_sources(folder / "in"), folder / "out")])


@pytest.mark.parametrize("what", NO_ARRAYS)
def test_tensors_that_are_more_than_numbers_in_a_file(tmp_path, what):
    kind, text = converted(tmp_path, {"w": NO_ARRAYS[what], "v": ONES})
    assert kind == "ValueError" and "tensor w is no plain array of numbers" in text


@pytest.mark.parametrize("what", NO_DTYPES)
def test_tensors_that_files_do_not_hold(tmp_path, what):
    kind, text = converted(tmp_path, {"w": NO_DTYPES[what], "v": ONES})
    assert kind == "ValueError" and "tensor w has dtype" in text


@pytest.mark.parametrize("saved", [ONES, None, {"a": {"b": {}}}, {f"{n}": ONES for n in range(2**15 + 1)}])
def test_what_is_no_state_dict(tmp_path, saved):
    kind, text = converted(tmp_path, saved)
    assert kind == "ValueError" and "model-10.pt" in text


def test_one_tensor_under_very_many_names(tmp_path):
    large = torch.zeros(100_000)
    kind, text = converted(tmp_path, {f"{number}": large for number in range(1000)})
    assert kind == "ValueError" and "1,000 tensors of 400,000,000 bytes" in text
    (tmp_path / "2").mkdir()
    assert converted(tmp_path / "2", {f"{number}": large for number in range(3)})[0] == "returned"


def test_a_dict_that_holds_itself(tmp_path):
    assert converted(tmp_path, NESTED)[0] == "returned"


@pytest.mark.parametrize("name", ["__metadata__", "x" * 2**24])
def test_names_that_no_tensor_has(tmp_path, name):
    kind, text = converted(tmp_path, {name: ONES, "v": ONES})
    assert kind == "ValueError" and len(text) < 1000


def test_members_that_are_packed(tmp_path):
    """Megabytes that unpack to many more: `torch.save` packs nothing."""
    saved = io.BytesIO()
    torch.save({"w": torch.zeros(2**24)}, saved)
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(tmp_path / "in" / "model-10.pt", "w") as packed:
        for member in whole.infolist():
            packed.writestr(member.filename, whole.read(member), zipfile.ZIP_DEFLATED, 1)
    kind, text = outcome(lambda: convert(find_sources(tmp_path / "in"), tmp_path / "out"), megabytes=40)
    assert kind == "ValueError" and "is packed or encrypted" in text
