"""Images from networks, by the thousand: opened, guided, drawn, decoded, kept and accounted for."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.draw.decode import decoder
    from unitgain.draw.images import sample_images, sample_pixels, to_pixels
    from unitgain.draw.networks import Network, guide_by, open_network, open_networks
    from unitgain.draw.run import draw_images, write_images
    from unitgain.draw.settings import DrawSettings

__all__ = [
    "DrawSettings",
    "Network",
    "decoder",
    "draw_images",
    "guide_by",
    "open_network",
    "open_networks",
    "sample_images",
    "sample_pixels",
    "to_pixels",
    "write_images",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "unitgain.draw.decode": "decoder",
        "unitgain.draw.images": "sample_images sample_pixels to_pixels",
        "unitgain.draw.networks": "Network guide_by open_network open_networks",
        "unitgain.draw.run": "draw_images write_images",
        "unitgain.draw.settings": "DrawSettings",
    },
)
