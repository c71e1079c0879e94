"""Data parallelism: PyTorch's DDP or FSDP2 around a module, set up so that gradients are sums over the processes.

Sums, not means: the loss is divided by the images of the whole batch, so one process and many compute the same. What
torch needs for sharding takes seconds to import, so it is imported where it is used; a sharded tensor (DTensor) is told
by its methods.
"""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unitgain.parallel.world import World


def distribute(module: nn.Module, world: World, parts: Sequence[nn.Module] | None = None) -> nn.Module:
    """The module made ready for training on all processes: call the result, whose gradients are sums over them.

    Args:
        module: on `world.device`; the same on every process.
        world: one process leaves the module as it is.
        parts: None for DDP, a replica per process; otherwise FSDP2: these parts (the blocks) are gathered one at a
            time, and parameters become DTensors that are cut along their rows, so that what concerns one row needs no
            communication. Scalars cannot be cut; they stay whole on every process (see `reduce_replicated`).
    """
    if world.size == 1:
        return module
    if parts is None:
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {buffers: False}  # they are constants
        # Of 1x1 convolutions, whose strides have several names; it is said on every process and means nothing.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        replica = DistributedDataParallel(module, gradient_as_bucket_view=True, **options)
        replica.register_comm_hook(None, _sum_bucket)
        return replica
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    scalars = {parameter for parameter in module.parameters() if not parameter.ndim}
    for part in [*parts, module]:
        sharded = cast(Any, fully_shard(part, mesh=mesh, ignored_params=scalars))
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # what gloo knows
    return module


def _sum_bucket(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    work = cast(dist.Work, dist.all_reduce(bucket.buffer(), async_op=True))
    return work.get_future().then(lambda future: future.value()[0])


@contextmanager
def accumulate(module: nn.Module, last: bool) -> Iterator[None]:
    """One forward and backward pass of a module from `distribute`; gradients are summed over processes in the last."""
    if isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
        return
    if is_sharded(module):
        cast(Any, module).set_requires_gradient_sync(last)
    yield


def is_sharded(what: nn.Module | Tensor) -> bool:
    """Whether this is a module under FSDP2, or one of its parameters."""
    # Of the class: modules search all that they hold for what they have not, which takes its time.
    return hasattr(type(what), "to_local" if isinstance(what, Tensor) else "set_requires_gradient_sync")


def reshard(module: nn.Module) -> None:
    """Give a module, and all in it, the parameters that train: under FSDP2 the shards, without communication.

    A forward pass without a backward one, as in validation, leaves copies of whole parameters in the module that is
    outermost under FSDP2. They look like parameters that are not sharded; what is written to them is lost, and the next
    forward pass computes with them, whatever the shards have become.
    """
    if not dist.is_initialized():  # by far the most runs, whose every step comes here
        return
    for part in module.modules():
        if is_sharded(part):
            cast(Any, part).reshard()


@torch.no_grad()
def reduce_replicated(module: nn.Module, world: World) -> None:
    """Sum the gradients of parameters that FSDP2 leaves alone, the scalars; nothing to do under DDP."""
    if not is_sharded(module):
        return
    scalars = [parameter for parameter in module.parameters() if not is_sharded(parameter)]
    if scalars:
        joined = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in scalars])
        world.sum([joined])
        for parameter, gradient in zip(scalars, joined.unbind(), strict=True):
            parameter.grad = gradient.clone()


def local(tensor: Tensor) -> Tensor:
    """The rows of a sharded tensor that lie here, sharing its memory; any other tensor as it is."""
    return cast(Any, tensor).to_local() if is_sharded(tensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, gathered from all processes, which must call this together."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """The sharded tensor whose local rows are `tensor`, cut as `like` is; `tensor` itself where that is not sharded."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor

    pattern = cast(Any, like)
    there = tensor.to(pattern.to_local().device)
    return DTensor.from_local(
        there, pattern.device_mesh, pattern.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
