"""What a network costs (`cost`), how large its activations and weights are (`magnitude`), and both drawn (`plots`)."""

from unitgain.lazy import offer

__getattr__, __dir__ = offer(__name__)
