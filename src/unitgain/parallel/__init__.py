"""Processes: the only room that imports torch.distributed.

`world` (who works together), `engine` (DDP and FSDP2: gradients are summed).
A program that uses them runs unchanged on one process and under torchrun.
"""

from unitgain.parallel.engine import accumulate, distribute, full, is_sharded, local, reduce_replicated, shard_like
from unitgain.parallel.world import JoinError, SharedError, World, beside, is_lost, pick_device, processes

__all__ = [
    "JoinError",
    "SharedError",
    "World",
    "accumulate",
    "beside",
    "distribute",
    "full",
    "is_lost",
    "is_sharded",
    "local",
    "pick_device",
    "processes",
    "reduce_replicated",
    "shard_like",
]
