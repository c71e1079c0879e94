"""Runs that tests of the explorer look at: on the digits, hardly trained, and far enough apart to be told apart."""

from unitgain.data.digits import digits
from unitgain.recipes import DIGITS
from unitgain.train import TrainConfig, train


def make_runs(folder):
    """`main`, of digits with their classes, and `guide`, unconditional; some snapshots each."""
    tiny = {"model_channels": 8, "channels_per_head": 8, "channel_mult": (1,), "num_blocks": 1, "attn_resolutions": ()}
    small = DIGITS.network.replace(**tiny)
    for name, network in (("main", small), ("guide", small.replace(label_dim=0))):
        recipe = DIGITS.replace(network=network, batch=16, duration=256, snapshot_every=32, rampup=16, lr=0.05)
        config = TrainConfig(recipe=recipe, data="digits", tick=64, checkpoint_every=256)
        train(config, folder / name, digits(), quiet=True, tensorboard=False)
    return folder
