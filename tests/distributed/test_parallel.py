"""The world of processes: what one process is spared, and what several agree on."""

import pytest
import torch
from launch import launch

from unitgain.parallel import World, processes


def test_one_process_needs_no_initialization():
    with processes() as world:
        tensor = torch.arange(3.0)
        world.sum([tensor])
        world.barrier()
        assert (world.rank, world.size, world.main) == (0, 1, True)
        assert tensor.tolist() == [0, 1, 2]
        assert world.gather("x") == ["x"]
        assert world.broadcast("x") == "x"
        assert not torch.distributed.is_initialized()


def agree(rank: int) -> None:
    with processes() as world:
        assert (world.rank, world.size, world.main) == (rank, 2, rank == 0)
        tensor = torch.tensor([1.0, 10.0**rank], dtype=torch.float64)
        world.sum([tensor])
        assert tensor.tolist() == [2, 11]
        assert world.gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
        assert world.broadcast(f"from {rank}") == "from 0"
        world.barrier()
    assert not torch.distributed.is_initialized()


def test_two_processes_agree():
    launch(agree, 2)


def fail(rank: int) -> None:
    with processes():
        if rank == 1:
            raise ValueError("rank 1 is out of order")


def test_a_failure_of_any_process_is_raised():
    with pytest.raises(Exception, match="rank 1 is out of order"):
        launch(fail, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_disjoint_and_complete(size: int):
    shares = [list(World(rank, size).share(range(10))) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
