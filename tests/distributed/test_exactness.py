"""One, two and four processes, DDP and FSDP2, compute the same up to the order of sums, and resume bit for bit."""

import json
import shutil
import signal

import pytest
import runs
import torch
from launch import launch

from unitgain.checkpoint.snapshot import Snapshot
from unitgain.parallel import World, processes
from unitgain.train import Execution, Microbatch, TrainState, train_step
from unitgain.train.speed import MACHINE

STEPS = 6
# Of weights of magnitude 1 and of losses. Summation order is all that differs: float32 rounds at 6e-8, and Adam
# divides gradients by their size, which carries rounding errors of small ones over to the weights.
TOLERANCE = 2e-5


def record(rank: int, path: str) -> None:
    """DDP and FSDP2 one after the other, with what else can be switched on, and one poisoned step each."""
    found = {}
    with processes() as world:
        for shard in (False, True):
            found[shard] = runs.steps(world, STEPS, shard=shard)
            found[shard, "poisoned"] = poisoned(world, shard)
        found["recomputed"] = runs.steps(world, 2, shard=True, recompute=True, ema_device="cpu")
        found["as it is"] = runs.steps(world, 2, shard=True)
    if rank == 0:
        torch.save(found, path)


def poisoned(world: World, shard: bool) -> dict[str, int]:
    """Non-finite gradients of a step in which one image of one process is infinite; the other part is healthy."""
    torch.manual_seed(3)
    state = TrainState.start(runs.RECIPE, world=world, execution=Execution(shard=shard))
    noise = torch.zeros(6, 1, 8, 8)
    if world.rank == world.size - 1:
        noise[0, 0, 0, 0] = float("inf")
    part = Microbatch(clean=torch.zeros(6, 1, 8, 8), sigma=torch.ones(6), noise=noise)
    report = train_step(state, runs.RECIPE, [part])
    assert all(torch.isfinite(getattr(p, "_local_tensor", p)).all() for p in state.modules.parameters())
    return report.nonfinite


@pytest.fixture(scope="module")
def alone():
    return runs.steps(World(), STEPS)


@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_processes_changes_nothing(size, alone, tmp_path):
    launch(record, size, str(tmp_path / "found"))
    found = torch.load(tmp_path / "found")
    for shard in (False, True):
        tensors, losses = found[shard]
        assert losses == pytest.approx(alone[1], rel=TOLERANCE)
        assert tensors.keys() == alone[0].keys()
        for name, tensor in tensors.items():
            assert (tensor - alone[0][name]).abs().max() < TOLERANCE, name
        assert found[shard, "poisoned"] == poisoned(World(), shard)
        assert found[shard, "poisoned"]["denoiser.network.out_gain"] == 1
    # Recomputing activations and moving averages change no bit.
    for name, tensor in found["recomputed"][0].items():
        assert torch.equal(tensor, found["as it is"][0][name]), name


def files(folder):
    return {path.name: path.read_bytes() for path in (folder / "snapshots").iterdir()}


def result(folder):
    return json.loads((folder / "result.json").read_text())


def close(folder, reference):
    """Whether the last snapshots of two runs agree up to summation order."""
    for name in ("0000000096-0.100.safetensors", "0000000096-raw.safetensors"):
        with Snapshot(folder / "snapshots" / name) as ours, Snapshot(reference / "snapshots" / name) as theirs:
            expected = dict(theirs.verified())
            for key, tensor in ours.verified():
                torch.testing.assert_close(tensor, expected[key], rtol=0, atol=2 * TOLERANCE)


def numbers(folder):
    """The lines of a run's statistics, without times."""
    rows = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in MACHINE} for row in rows]


def same_statistics(folder, reference):
    """Whether all of them agree, though processes have unequal shares of the batch, and shards."""
    for ours, theirs in zip(numbers(folder), numbers(reference), strict=True):
        assert ours.keys() == theirs.keys()
        for bucket, values in ours.get("magnitudes", {}).items():
            assert values == pytest.approx(theirs["magnitudes"][bucket], rel=1e-3), bucket
        for part, values in ours.get("parts", {}).items():
            assert values == pytest.approx(theirs["parts"][part], rel=1e-2, abs=1e-4), part
        if "noise_levels" in ours:
            levels, expected = ours["noise_levels"], theirs["noise_levels"]
            assert sum(levels["images"]) == 24
            assert levels["images"] == expected["images"]
            for key in ("error", "loss", "u"):
                for found, wanted in zip(levels[key], expected[key], strict=True):
                    assert found == wanted or found == pytest.approx(wanted, rel=1e-3, abs=1e-3), key
        assert ours.get("loss", 0.0) == pytest.approx(theirs.get("loss", 0.0), rel=1e-4)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Runs of 4 processes, whole and stopped by a signal to one of them, under DDP and FSDP2; resumed by 4."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = []
    for name, shard, rank, number in (("ddp", False, 3, signal.SIGTERM), ("fsdp", True, 1, signal.SIGUSR1)):
        part = str(folder / f"{name}-part")
        jobs += [
            (str(folder / f"{name}-whole"), {"shard": shard}),
            (part, {"shard": shard, "dataset": runs.interrupted(rank, 4, number)}),
        ]
    launch(runs.train_all, 4, jobs)
    return folder


def test_a_signal_to_any_rank_stops_all_with_a_checkpoint(stopped):
    for name, why in (("ddp", "SIGTERM"), ("fsdp", "SIGUSR1")):
        nimg, finished, reason = result(stopped / f"{name}-part")
        assert (nimg, finished, reason) == (48, False, why)  # in the fourth step, which was finished
        assert (stopped / f"{name}-part" / "checkpoints" / "0000000048" / "manifest.json").is_file()
        assert not (stopped / f"{name}-part" / ".lock").exists()


def test_resume_is_exact_at_the_same_number_and_close_at_another(stopped, tmp_path, capsys):
    copies = {}
    for name in ("ddp", "fsdp"):
        for how in ("same", "two", "other", "one"):
            copies[name, how] = tmp_path / f"{name}-{how}"
            shutil.copytree(stopped / f"{name}-part", copies[name, how])
    same = [(str(copies[name, "same"]), {"resume": True, "shard": name == "fsdp"}) for name in ("ddp", "fsdp")]
    other = [(str(copies[name, "other"]), {"resume": True, "shard": name == "ddp"}) for name in ("ddp", "fsdp")]
    launch(runs.train_all, 4, same + other)
    two = [(str(copies[name, "two"]), {"resume": True, "shard": name == "ddp"}) for name in ("ddp", "fsdp")]
    launch(runs.train_all, 2, two)
    for name in ("ddp", "fsdp"):
        whole = stopped / f"{name}-whole"
        assert files(copies[name, "same"]) == files(whole)
        runs.run(copies[name, "one"], resume=True)
        for how in ("two", "other", "one"):
            close(copies[name, how], whole)
    runs.run(tmp_path / "alone")
    for name in ("ddp", "fsdp"):
        same_statistics(stopped / f"{name}-whole", tmp_path / "alone")
        assert numbers(copies[name, "same"]) == numbers(stopped / f"{name}-whole")
    assert "written by 4 processes and goes on with 1" in capsys.readouterr().err
