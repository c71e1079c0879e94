"""Names of tensors, whatever has wrapped the model that they are of."""

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from unitgain.parallel import reshard

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})  # nobody's own names


def without_wrappers(name: str) -> str:
    """The name of any module's tensor without what FSDP, checkpointing and `torch.compile` put before and into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def canonical(name: str) -> str:
    """The name of a denoiser's tensor without that and what DDP puts there: none of its parts is called `module`."""
    return ".".join(part for part in without_wrappers(name).split(".") if part != "module")


def tracked_names(module: nn.Module) -> dict[str, str]:
    """What a strict `load_state_dict` wants of a module, wrapped or not: tied parameters under each of their names, no
    buffers that do not persist.

    Returns:
        By canonical name, the name that `named_parameters` or `named_buffers` gives.

    Raises:
        ValueError: if two tensors have the same canonical name; if `state_dict` holds copies of what the module has, or
            nothing of it, so that it cannot be told which tensor is which.
    """
    reshard(module)
    own = {id(tensor): name for name, tensor in [*module.named_buffers(), *module.named_parameters()]}
    wrapped = _wrapped(module)
    names: dict[str, str] = {}
    others: list[str] = []
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in own:  # extra state, which is no tensor of the network, or a copy of one
            others += [name] if isinstance(tensor, Tensor) else []
            continue
        clean = _without_modules(name, wrapped)
        if clean in names:
            raise ValueError(f"tensors {names[clean]} and {name} are both called {clean} where nothing wraps them")
        names[clean] = own[id(tensor)]
    lost = sorted({name for name, _ in module.named_parameters()} - set(names.values()))
    if (lost and others) or (own and not names):
        what = f"copies ({', '.join(others[:3])})" if others else "none of the tensors"
        raise ValueError(
            f"state_dict() of {type(module).__name__} holds {what} where the module has {', '.join(lost[:3])}: give "
            "the module whose state_dict() holds its own parameters, such as the one inside; of FSDP, the second "
            "(fully_shard)"
        )
    return names


def plain_names(module: nn.Module) -> dict[str, str]:
    """By canonical name, the name that `named_parameters` or `named_buffers` gives; tied ones under the first alone."""
    wrapped = _wrapped(module)
    own = [name for name, _ in [*module.named_buffers(), *module.named_parameters()]]
    return {_without_modules(name, wrapped): name for name in own}


def _wrapped(module: nn.Module) -> set[str]:
    """Paths of those parts called `module` that DDP and the like have inside."""
    parts: list[tuple[str, nn.Module]] = list(cast(Any, module).named_modules(remove_duplicate=False))
    return {
        f"{path}.module".lstrip(".")
        for path, part in parts
        if isinstance(part, DistributedDataParallel | DataParallel | AveragedModel)
    }


def _without_modules(name: str, wrapped: set[str]) -> str:
    """Without wrappers of either kind, where the paths of those that are called `module` are known."""
    parts = name.split(".")
    kept = [part for number, part in enumerate(parts) if ".".join(parts[: number + 1]) not in wrapped]
    return without_wrappers(".".join(kept))
