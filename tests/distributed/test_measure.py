"""One process and several measure the same."""

from pathlib import Path

import pytest
import torch
from launch import launch
from safetensors.torch import load_file, save_file

from unitgain.metrics.detectors import Function
from unitgain.metrics.measure import measure
from unitgain.metrics.metric import KernelDistance
from unitgain.metrics.reference import Reference
from unitgain.metrics.summary import summarize
from unitgain.parallel import World, processes

IMAGES, METRICS = 83, ["fd", KernelDistance(size=40, subsets=5), "precision", "recall", "density", "coverage", "is"]


class Conv(Function):
    """A small network that also names classes."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(6, 3, 4, 4, generator=generator) / 100
        super().__init__(lambda x: torch.conv2d(x.float(), self.weight, stride=2).flatten(1), "conv")

    def probabilities(self, images):
        return self(images)[:, :5].double().softmax(1)


def pictures(seed, n):
    return torch.randint(0, 256, (n, 3, 6, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def work(world: World) -> dict[str, torch.Tensor]:
    own = pictures(0, IMAGES)[world.rank :: world.size]
    detector = Conv()
    summary = summarize(own.split(10), [detector], rows=["conv"], probabilities=["conv"], world=world)["conv"]
    reference = Reference.of(summarize([pictures(1, 90)], [detector], rows=["conv"])["conv"])
    records = measure(own.split(9), detector, METRICS, reference, world=world)
    values = torch.tensor([record.value for record in records], dtype=torch.float64)
    kept = {name: getattr(summary, name) for name in ("mean", "cov", "rows", "probabilities")}
    return {**kept, "values": values}


def one_of(rank: int, folder: str) -> None:
    with processes() as world:
        found = work(world)
        save_file({key: value.contiguous() for key, value in found.items()}, Path(folder) / f"{rank}.safetensors")
        unequal = pictures(0, 8 if rank == 0 else 3)
        with pytest.raises(ValueError, match=r"the processes read \[8, 3\] images; deal them out"):
            summarize([unequal], [Conv()], world=world)


def test_two_processes_measure_what_one_does_and_refuse_images_not_dealt_out_in_turn(tmp_path):
    alone = work(World())
    launch(one_of, 2, str(tmp_path))
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert torch.equal(found["rows"], alone["rows"])  # the order of images too
        for key in ("mean", "cov", "probabilities", "values"):
            torch.testing.assert_close(found[key], alone[key], rtol=1e-10, atol=1e-12)
