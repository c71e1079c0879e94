"""What the hooks cannot keep: their frameworks save the state of one process."""

from torch import nn

from unitgain.parallel import is_sharded, reshard


def check_whole(module: nn.Module) -> None:
    """Raise `ValueError` if parameters are sharded: one process's shards would come back on all when a run goes on."""
    reshard(module)
    if sharded := [name for name, parameter in module.named_parameters() if is_sharded(parameter)]:
        raise ValueError(
            f"parameters are sharded ({', '.join(sharded[:3])}), and the checkpoints that this hook is saved in keep "
            "the averages of one process: train with DDP, or call unitgain.posthoc.SnapshotStore from the loop and "
            "save its state_dict() on every process"
        )
