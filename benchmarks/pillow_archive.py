"""A plain script that makes an archive of pictures with Pillow, one after the other, to compare `data prepare` with.

`python benchmarks/pillow_archive.py SOURCE DEST RESOLUTION [LEVEL] [MODULE]`: decode, crop as ADM does, PNG of that
compression (0: none, the quickest; 6: Pillow's usual one), uncompressed zip. It imports nothing else but MODULE (torch:
as a tool does that can also make latents), and stands in for tools that are not at hand.
"""

import importlib
import io
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def crop(image: Image.Image, size: int) -> Image.Image:
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def main(arguments: Sequence[str]) -> None:
    source, dest, resolution, level, module = (*arguments, *("6", "sys")[len(arguments) - 3 :])
    importlib.import_module(module)
    with zipfile.ZipFile(dest, "w", zipfile.ZIP_STORED) as archive:
        for index, path in enumerate(sorted(Path(source).iterdir())):
            with Image.open(path) as file:
                image = crop(file.convert("RGB"), int(resolution))
            buffer = io.BytesIO()
            image.save(buffer, format="PNG", compress_level=int(level))
            archive.writestr(f"{index // 1000:05d}/img{index:08d}.png", buffer.getvalue())


if __name__ == "__main__":
    main(sys.argv[1:])
