"""Images from networks, by the thousand: opened, guided, drawn, decoded, kept and accounted for."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.draw.animation import write_interpolation as write_interpolation
    from unitgain.draw.animation import write_path as write_path
    from unitgain.draw.decode import decoder as decoder
    from unitgain.draw.images import draw_images as draw_images
    from unitgain.draw.images import sample_arrays as sample_arrays
    from unitgain.draw.images import sample_images as sample_images
    from unitgain.draw.images import sample_pixels as sample_pixels
    from unitgain.draw.images import to_arrays as to_arrays
    from unitgain.draw.images import to_images as to_images
    from unitgain.draw.images import to_pixels as to_pixels
    from unitgain.draw.networks import Network as Network
    from unitgain.draw.networks import guide_by as guide_by
    from unitgain.draw.networks import open_network as open_network
    from unitgain.draw.networks import open_networks as open_networks
    from unitgain.draw.picture import from_picture as from_picture
    from unitgain.draw.preview import Preview as Preview
    from unitgain.draw.rows import DataRows as DataRows
    from unitgain.draw.run import write_images as write_images
    from unitgain.draw.settings import Animation as Animation
    from unitgain.draw.settings import DrawSettings as DrawSettings
    from unitgain.draw.settings import FromPicture as FromPicture

__getattr__, __dir__ = offer(__name__)
