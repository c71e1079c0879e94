"""What may be chosen when data are prepared and encoded, apart from what does it, so that options show at once."""

from typing import Literal

OnError = Literal["fail", "skip"]  # about a picture that cannot be used
Normalize = Literal["official", "measured"]  # of pixels
Normalization = Literal["auto", "official", "measured"]  # of latents
PixelRange = Literal["0..1", "-1..1"]  # what a VAE is fed with
Layout = Literal["channels-first", "channels-last", "no-channels", "latents"]  # of the axes of an array
