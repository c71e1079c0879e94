"""Fine-tuning by two processes, whole and sharded, is that of one."""

import runs
import torch
from launch import launch
from test_exactness import close, files

from unitgain.checkpoint.snapshot import SnapshotHeader, write_snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser
from unitgain.serial import to_dict
from unitgain.train.finetune import open_init


def test_two_processes_start_from_a_snapshot_as_one(tmp_path):
    header = SnapshotHeader(
        network=runs.SPEC.replace(label_dim=2),
        sigma_data=0.5,
        nimg=640,
        profile={"kind": "raw"},
        recipe="tiny",
        encoder=to_dict(PixelEncoder()),
        classes=("c", "other"),
    )
    torch.manual_seed(9)
    path = tmp_path / "start.safetensors"
    write_snapshot(path, header, Denoiser(header.network).state_dict(), "float32")
    config = runs.config(init=open_init(str(path))[0])
    runs.run(tmp_path / "alone", config=config)
    runs.run(tmp_path / "anew")
    jobs = [(str(tmp_path / name), {"config": config, "shard": name == "fsdp"}) for name in ("ddp", "fsdp")]
    launch(runs.train_all, 2, jobs)
    for name in ("ddp", "fsdp"):
        close(tmp_path / name, tmp_path / "alone")
    assert files(tmp_path / "alone") != files(tmp_path / "anew")
