"""Pictures and folders of them for the tests of data."""

import io
import tarfile

import numpy as np
from PIL import Image


def picture(seed, width=20, height=14, channels=3):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values[:, :, 0] if channels == 1 else values)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def folder_of(root, classes=("cat", "dog", "eel"), each=4, **size):
    """A folder of `each` pictures of each class."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(each):
            (root / name / f"{index}.png").write_bytes(encoded(picture(100 * number + index, **size)))
    return root


def tar_of(path, files):
    """A tar archive of these files, by their names."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def contents(folder):
    """The bytes of every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
