"""Files of Arrow record batches from elsewhere: mapped, and believed only as far as they were looked at."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unitgain.extras import require
from unitgain.text import printable
from unitgain.trust import open_regular

HEADER, COMPRESSION = 2, 3  # fields of a message, and of a record batch


def map_batches(path: Path, columns: Sequence[str] | None = None) -> list[Any]:
    """The record batches of a file in Arrow's stream format, mapped: nothing is read that is not asked for.

    Every offset and all text in `columns` are checked, which reads these, and no values.

    Args:
        path: the file.
        columns: those that are wanted; all by default.

    Raises:
        FileNotFoundError: if there is no file.
        ImportError: if pyarrow is missing.
        OSError: if it is not an ordinary file.
        ValueError: if it is damaged, or packed so that it would have to be unpacked.
    """
    pa = require("pyarrow", extra="data")
    batches = []
    with _mapped(path) as file:
        messages = pa.ipc.MessageReader.open_stream(file)
        schema = pa.ipc.read_schema(messages.read_next_message())
        for message in messages:
            if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
                raise ValueError(f"{path} is damaged: a {message.type} in it is no plain record batch")
            batch = pa.ipc.read_record_batch(message, schema)
            batch = batch if columns is None else batch.select(list(columns))
            batch.validate(full=True)
            batches.append(batch)
    return batches


def read_schema(path: Path) -> Any:
    """The columns of a file in Arrow's stream format.

    Raises:
        As `map_batches`.
    """
    pa = require("pyarrow", extra="data")
    with _mapped(path) as file:
        schema = pa.ipc.read_schema(pa.ipc.MessageReader.open_stream(file).read_next_message())
        list(schema.names)  # which may be no text
        return schema


@contextmanager
def _mapped(path: Path) -> Iterator[Any]:
    """A file, and one kind of error for all that may be wrong with it."""
    pa = require("pyarrow", extra="data")
    with open_regular(path):
        pass
    try:
        with pa.memory_map(str(path)) as file:
            yield file
    except (pa.ArrowException, OSError, KeyError, StopIteration, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"{path} is damaged: {printable(error) or type(error).__name__}") from error


def _is_compressed(metadata: bytes) -> bool:
    """Whether the buffers of a record batch are, which pyarrow does not say before it has taken memory for them.

    Flatbuffers: a table begins with the distance back to the places of its fields, 0 for one that is not there.
    """

    def field(table: int, number: int) -> int:
        places = table - struct.unpack_from("<i", metadata, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", metadata, places)[0]:
            return 0
        place = struct.unpack_from("<H", metadata, places + 4 + 2 * number)[0]
        return table + place if place else 0

    def follow(place: int) -> int:
        return place + struct.unpack_from("<I", metadata, place)[0]

    header = field(follow(0), HEADER)
    return field(follow(header), COMPRESSION) != 0
