"""A snapshot store beside sharded parameters: averages where the shards lie, one file for all of them."""

from pathlib import Path

import pytest
import torch
from launch import launch
from safetensors.torch import load_file
from torch import Tensor, nn

from unitgain.ema import PowerEMA
from unitgain.hooks.whole import check_whole
from unitgain.layers import MPConv, project_weights
from unitgain.parallel import processes
from unitgain.posthoc import SnapshotStore, load_into


def network() -> nn.Module:
    """Rows that do not divide by two processes, a buffer, and a vector shorter than their number."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))


@torch.no_grad()
def walk(module: nn.Module, store: SnapshotStore, steps: int = 6) -> None:
    """The same walk whether parameters are cut up or not."""
    for _ in range(steps):
        for parameter in module.parameters():
            parameter.mul_(0.7).add_(0.1)
        store.update(store.t + 1, 1)


def sharded(rank: int, folder: str) -> None:
    with processes() as world:
        from torch.distributed.fsdp import fully_shard

        module = network()
        for part in module:
            fully_shard(part)
        store = SnapshotStore(folder, module, every=3, dtype="float32", main=world.main)
        walk(module, store)
        average = store.emas[0].average
        parts = [average[name] for name, _ in module.named_parameters()]
        local = [part.to_local() if hasattr(part, "to_local") else part for part in parts]
        held = torch.tensor([sum(tensor.numel() for tensor in local)])
        world.sum([held])
        assert held.item() == sum(tensor.numel() for tensor in module.parameters())  # no average is held twice
        check_switch(module, store, local)
        world.barrier()


def check_switch(module: nn.Module, store: SnapshotStore, average: list[Tensor]) -> None:
    """An average lies in the shards of this process for a while, without communication, and leaves no trace."""

    def shards() -> list[Tensor]:
        parts = [part.detach() for part in module.parameters()]
        return [(part.to_local() if hasattr(part, "to_local") else part).clone() for part in parts]

    before = shards()
    with store.switch():
        assert all(torch.equal(one, other) for one, other in zip(shards(), average, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(shards(), before, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(before, average, strict=True))


def contents(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def test_two_processes_write_what_one_does(tmp_path):
    module = network()
    walk(module, SnapshotStore(tmp_path / "one", module, every=3, dtype="float32"))
    launch(sharded, 2, str(tmp_path / "two"))
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert len(one) == 4
    assert one.keys() == two.keys()
    for name, tensors in one.items():
        torch.testing.assert_close(two[name], tensors, rtol=1e-6, atol=1e-7)


def validated(rank: int, folder: str) -> None:
    """Forward passes without a backward pass leave the parameters of the outermost module gathered."""
    with processes() as world:
        from torch.distributed.fsdp import fully_shard

        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 4, bias=False), MPConv(4, 2, ()), nn.Linear(2, 1, bias=False))
        fully_shard(module[2])
        fully_shard(module)
        x = torch.ones(8, 4)

        @torch.no_grad()
        def validate() -> Tensor:
            return module(x)

        def whole() -> list[Tensor]:
            return [parameter.full_tensor().detach().clone() for parameter in parameters]

        def output(weights: list[Tensor]) -> Tensor:
            fresh = nn.Sequential(nn.Linear(4, 4, bias=False), MPConv(4, 2, ()), nn.Linear(2, 1, bias=False))
            for own, weight in zip(fresh.parameters(), weights, strict=True):
                own.data.copy_(weight)
            with torch.no_grad():
                return fresh(x)

        parameters = list(module.parameters())
        validate()
        with pytest.raises(ValueError, match=r"0\.weight"):
            check_whole(module)
        validate()
        ema = PowerEMA(module, 0.1)
        validate()
        store = SnapshotStore(folder, [ema], every=100, dtype="float32", main=world.main)
        optimizer = torch.optim.SGD(parameters, lr=0.3)
        for step in range(1, 4):
            optimizer.zero_grad()
            module(x).square().sum().backward()
            optimizer.step()
            validate()
            store.update(step, 1)
        validate()
        store.write()
        validate()
        store.take(raw=True)()
        average = [tensor for _, tensor in ema.full_tensors()]
        before = whole()
        assert not torch.equal(before[0], average[0])
        validate()
        with store.switch():
            torch.testing.assert_close(validate(), output(average))
        torch.testing.assert_close(module(x).detach(), output(before))
        assert all(torch.equal(one, other) for one, other in zip(whole(), before, strict=True))
        with pytest.raises(ValueError, match="cut up among processes"):
            load_into(module, Path(folder) / "0000000003-0.100.safetensors")
        part = PowerEMA(module[0], 0.1)
        part.update(1, 1)
        validate()
        with pytest.raises(ValueError, match=r"reshard\(\) on the outermost"):
            part.update(2, 1)  # only the module around it can let go of them
        project_weights(module)
        assert not torch.equal(whole()[1], before[1])
        if world.main:
            written = contents(Path(folder))
            for kind, expected in {"0.100": average, "raw": before}.items():
                own = written[f"0000000003-{kind}.safetensors"]
                for name, tensor in zip(dict(module.named_parameters()), expected, strict=True):
                    assert torch.equal(own[name], tensor), (kind, name)
        world.barrier()


def test_a_forward_pass_without_a_backward_one_changes_nothing(tmp_path):
    launch(validated, 2, str(tmp_path))
