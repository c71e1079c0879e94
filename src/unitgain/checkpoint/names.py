"""Names of tensors, whatever has wrapped the model that they are of."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

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
        ValueError: if two tensors have the same canonical name.
    """
    own = {id(tensor): name for name, tensor in [*module.named_buffers(), *module.named_parameters()]}
    wrapped = {
        f"{path}.module".lstrip(".")
        for path, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, DistributedDataParallel | DataParallel | AveragedModel)
    }
    names: dict[str, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in own:
            continue  # extra state, which is no tensor of the network
        clean = _without_modules(name, wrapped)
        if clean in names:
            raise ValueError(f"tensors {names[clean]} and {name} are both called {clean} where nothing wraps them")
        names[clean] = own[id(tensor)]
    return names


def _without_modules(name: str, wrapped: set[str]) -> str:
    """Without wrappers of either kind, where the paths of those that are called `module` are known."""
    parts = name.split(".")
    kept = [part for number, part in enumerate(parts) if ".".join(parts[: number + 1]) not in wrapped]
    return without_wrappers(".".join(kept))
