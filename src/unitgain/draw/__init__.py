"""Images from networks, by the thousand: opened, guided, drawn, decoded, kept and accounted for."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.draw.animation import write_interpolation, write_path
    from unitgain.draw.decode import decoder
    from unitgain.draw.images import (
        draw_images,
        sample_arrays,
        sample_images,
        sample_pixels,
        to_arrays,
        to_images,
        to_pixels,
    )
    from unitgain.draw.networks import Network, guide_by, open_network, open_networks
    from unitgain.draw.picture import from_picture
    from unitgain.draw.preview import Preview
    from unitgain.draw.rows import DataRows
    from unitgain.draw.run import write_images
    from unitgain.draw.settings import Animation, DrawSettings, FromPicture

__all__ = [
    "Animation",
    "DataRows",
    "DrawSettings",
    "FromPicture",
    "Network",
    "Preview",
    "decoder",
    "draw_images",
    "from_picture",
    "guide_by",
    "open_network",
    "open_networks",
    "sample_arrays",
    "sample_images",
    "sample_pixels",
    "to_arrays",
    "to_images",
    "to_pixels",
    "write_images",
    "write_interpolation",
    "write_path",
]

__getattr__, __dir__ = offer(__name__)
