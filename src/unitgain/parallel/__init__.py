"""Processes: the only room that imports torch.distributed.

`world` (who works together), `engine` (DDP and FSDP2: gradients are summed).
A program that uses them runs unchanged on one process and under torchrun.
"""

from unitgain.parallel.engine import accumulate as accumulate
from unitgain.parallel.engine import distribute as distribute
from unitgain.parallel.engine import full as full
from unitgain.parallel.engine import is_sharded as is_sharded
from unitgain.parallel.engine import local as local
from unitgain.parallel.engine import reduce_replicated as reduce_replicated
from unitgain.parallel.engine import reshard as reshard
from unitgain.parallel.engine import shard_like as shard_like
from unitgain.parallel.world import JoinError as JoinError
from unitgain.parallel.world import SharedError as SharedError
from unitgain.parallel.world import World as World
from unitgain.parallel.world import beside as beside
from unitgain.parallel.world import is_lost as is_lost
from unitgain.parallel.world import pick_device as pick_device
from unitgain.parallel.world import processes as processes
