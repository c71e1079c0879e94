"""A VAE small enough for tests: random, the same for the same seed."""

import torch
from diffusers import AutoencoderKL


def save_vae(folder, seed=0, channels=3):
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(4, 8),
        latent_channels=4,
        norm_num_groups=2,
        layers_per_block=1,
    )
    vae.save_pretrained(str(folder))
    return str(folder)
