"""What all other tests rely on: wrong types and shapes are errors while they run."""

import pytest
import torch

from unitgain.data.dataset import ArrayDataset
from unitgain.files import write_text
from unitgain.ops import mp_cat
from unitgain.parallel.world import World


def test_dimensions_are_compared_between_arguments():
    assert mp_cat(torch.zeros(2, 3, 4), torch.zeros(2, 5, 4)).shape == (2, 8, 4)
    with pytest.raises(TypeError, match="mp_cat"):
        mp_cat(torch.zeros(2, 3, 4), torch.zeros(1, 5, 4))


def test_types_of_functions_methods_and_dataclasses_are_checked(tmp_path):
    with pytest.raises(TypeError, match="write_text"):
        write_text(tmp_path / "a", b"bytes")
    with pytest.raises(TypeError, match="share"):
        World().share(7)
    with pytest.raises(TypeError, match="ArrayDataset"):
        ArrayDataset(name=7, images=torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
