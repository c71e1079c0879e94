"""The pages of a parquet file: what they take is in their headers, which the summary at its end may contradict.

A header is a struct in Thrift's compact protocol, of which two numbers are wanted here: field 2, the bytes of the page
unpacked, and field 3, as it lies in the file. What does not unpack to field 2 is refused by pyarrow.
"""

UNPACKED, PACKED = 2, 3  # fields of a header
LONGEST = 2**20  # bytes of a header; statistics of the page are in it
DEEPEST = 8


def page_sizes(data: memoryview) -> tuple[int, int]:
    """Bytes that the largest page of a column takes unpacked, and that all of them take.

    Args:
        data: what the file holds of one column in one row group.

    Raises:
        ValueError: if it is no row of whole pages.
    """
    position = largest = total = 0
    while position < len(data):
        header = _Header(data[position : position + LONGEST])
        numbers = header.struct(DEEPEST)
        unpacked, packed = numbers.get(UNPACKED, -1), numbers.get(PACKED, -1)
        position += header.position + packed
        if unpacked < 0 or packed < 0 or position > len(data):
            raise ValueError(f"a page of {packed:,} bytes, {unpacked:,} unpacked, does not fit into the file")
        largest, total = max(largest, unpacked), total + unpacked
    return largest, total


class _Header:
    """Reads Thrift's compact protocol, of which it keeps the whole numbers of the outer struct."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.position = data, 0

    def struct(self, depth: int) -> dict[int, int]:
        numbers: dict[int, int] = {}
        field = 0
        while head := self.byte():
            step, kind = head >> 4, head & 15
            field = field + step if step else self.signed()
            if kind in (4, 5, 6):
                numbers[field] = self.signed()
            elif kind > 2:  # the others are true and false, which need no bytes
                self.skip(kind, depth)
        return numbers

    def skip(self, kind: int, depth: int) -> None:
        if depth == 0:
            raise ValueError("the header of a page is nested too deeply")
        if kind in (1, 2, 3):
            self.byte()
        elif kind in (4, 5, 6):
            self.varint()
        elif kind == 7:
            self.forward(8)
        elif kind == 8:
            self.forward(self.varint())
        elif kind in (9, 10):
            head = self.byte()
            count = self.varint() if head >> 4 == 15 else head >> 4
            for _ in range(min(count, LONGEST)):  # each takes a byte at least, of which there are no more
                self.skip(head & 15, depth - 1)
        elif kind == 12:
            self.struct(depth - 1)
        else:
            raise ValueError(f"the header of a page has a field of kind {kind}, which none of them has")

    def signed(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("the header of a page has a number of more than 64 bits")

    def byte(self) -> int:
        self.forward(1)
        return self.data[self.position - 1]

    def forward(self, count: int) -> None:
        self.position += count
        if self.position > len(self.data):
            raise ValueError("the header of a page ends early")
