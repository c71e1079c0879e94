"""Images from networks, by the thousand: opened, guided, drawn, decoded, kept and accounted for."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.draw.decode import decoder
    from unitgain.draw.networks import Network, guide_by, open_network
    from unitgain.draw.run import draw, pictures
    from unitgain.draw.settings import DrawSettings

__all__ = ["DrawSettings", "Network", "decoder", "draw", "guide_by", "open_network", "pictures"]

__getattr__, __dir__ = offer(
    __name__,
    {
        "DrawSettings": "unitgain.draw.settings",
        "Network": "unitgain.draw.networks",
        "decoder": "unitgain.draw.decode",
        "draw": "unitgain.draw.run",
        "guide_by": "unitgain.draw.networks",
        "open_network": "unitgain.draw.networks",
        "pictures": "unitgain.draw.run",
    },
)
