"""Images from networks, by the thousand: opened, guided, drawn, decoded, kept and accounted for."""

from unitgain.draw.decode import decoder
from unitgain.draw.networks import Network, guide_by, open_network
from unitgain.draw.run import draw, pictures
from unitgain.draw.settings import DrawSettings

__all__ = ["DrawSettings", "Network", "decoder", "draw", "guide_by", "open_network", "pictures"]
