"""What the official networks of latents were trained on, in numbers that files and code share."""

VAE = "stabilityai/sd-vae-ft-mse"
# Of the latents of that VAE, fed with images in [0, 1], over ImageNet-512: per channel.
VAE_MEAN = (5.81, 3.25, 0.12, -2.15)
VAE_STD = (4.17, 4.62, 3.71, 3.28)
