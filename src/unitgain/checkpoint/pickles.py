"""Pickles read without running them: a machine of our own, in which a class is a name and a call is a record.

A pickle is a program for a stack machine. Python's reader imports what the program names and calls it; this one has no
way to do either. It knows the opcodes that picklers write for data, takes names from a list that the caller gives, and
ends with an error at the first thing that is not among these. Long strings and bytes stay views of the file.

What a pickle may cost is bounded before it is paid: memory by twice the size of the file, steps by a multiple of it.
"""

import pickletools
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass

from unitgain.checkpoint.records import Call, Name, Refused, Text

SMALL = 4 * 2**20  # bytes of objects that any file may describe, however small; 2 x the size of one beyond 2 MiB
STEPS = 1_000_000  # opcodes that any file may have, and one more per 256 bytes: weights are long strings of bytes
LONG = 1024  # text beyond this is not decoded
MAX_NAME = 256
MAX_INT = 16  # bytes of an integer


_MAPPINGS = frozenset({"collections.OrderedDict", "dnnlib.util.EasyDict"})
_SETS = frozenset({"builtins.set", "__builtin__.set"})
PERSISTENT = "a persistent id"


def read(
    data: memoryview,
    names: Collection[str],
    *,
    start: int = 0,
    persistent: bool = False,
    budget: int | None = None,
    on_call: Callable[[Call], None] | None = None,
) -> tuple[object, int]:
    """What a pickle describes: None, bool, int, float, str, tuple, list, dict, set, and records.

    `OrderedDict()` and `EasyDict()` become dicts, `set([...])` a set; bytes become memoryviews into `data`, and text of
    more than 1 kB becomes `Text`.

    Args:
        data: bytes of the file.
        names: classes and functions that may be named, as "module.name".
        start: where the pickle begins.
        persistent: whether persistent ids may occur; each becomes a `Call` of `PERSISTENT`.
        budget: bytes of memory that may be used; twice the size of the data by default, and never less than 4 MiB.
        on_call: called with each call that the pickle asks for, to refuse some.

    Returns:
        What is described, and where the pickle ends.

    Raises:
        Refused: at anything else, naming the opcode or name and its position.
    """
    budget = max(2 * len(data), SMALL) if budget is None else budget
    machine = _Machine(data, names, start, persistent, budget, on_call)
    return machine.run(), machine.position


@dataclass(eq=False)
class _Machine:
    data: memoryview
    names: Collection[str]
    position: int
    persistent: bool
    budget: int
    on_call: Callable[[Call], None] | None

    def __post_init__(self) -> None:
        self.at = self.frame_end = self.position
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.steps = STEPS + len(self.data) // 256

    def run(self) -> object:
        for _ in range(self.steps):
            self.at = self.position
            code = self.take(1)[0]
            if code == _STOP:
                return self.stop()
            action = _ACTIONS.get(code)
            if action is None:
                raise self.refusal(f"opcode {_NAMES.get(code, hex(code))} is not one that data needs")
            action(self)
        raise self.refusal(f"there are more than {self.steps:,} opcodes")

    def refusal(self, why: str) -> Refused:
        return Refused(f"byte {self.at:,}: {why}; nothing was executed")

    def stop(self) -> object:
        if len(self.stack) != 1 or self.marks:
            raise self.refusal(f"the pickle ends with {len(self.stack)} values on its stack instead of one")
        return self.stack[0]

    # What every step is made of: bytes in, values on and off the stack, and a bill for the memory.

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.position:
            raise self.refusal(f"{count:,} bytes are announced where {len(self.data) - self.position:,} are left")
        if self.position < self.frame_end < self.position + count:
            raise self.refusal("it goes on beyond the end of its frame")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, layout: struct.Struct) -> int:
        return layout.unpack(self.take(layout.size))[0]

    def pay(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise self.refusal("what the pickle describes takes more than twice the size of the file")

    def push(self, value: object, cost: int) -> None:
        self.pay(cost)
        self.stack.append(value)

    def pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.refusal("a value is taken from an empty stack")
        return self.stack.pop()

    def pop_mark(self) -> list[object]:
        if not self.marks:
            raise self.refusal("a mark is taken where there is none")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def top(self, kind: type, what: str) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0) or type(self.stack[-1]) is not kind:
            raise self.refusal(f"{what} where there is no {kind.__name__.lower()} to take it")
        return self.stack[-1]

    # Text, bytes, numbers.

    def text(self, layout: struct.Struct) -> None:
        length = self.number(layout)
        data = self.take(length)
        if length > LONG:
            self.push(Text(data), 320)
            return
        self.push(self.decode(data), 64 + 4 * length)

    def decode(self, data: memoryview) -> str:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise self.refusal("text is not UTF-8") from None

    def bytes(self, layout: struct.Struct) -> None:
        self.push(self.take(self.number(layout)), 256)

    def integer(self) -> None:
        length = self.take(1)[0]
        if length > MAX_INT:
            raise self.refusal(f"an integer of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True), 48)

    # Containers.

    def mark(self) -> None:
        self.pay(48)
        self.marks.append(len(self.stack))

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)), 64 + 8 * count)

    def tuple_from_mark(self) -> None:
        items = self.pop_mark()
        self.push(tuple(items), 64 + 8 * len(items))

    def append(self, items: list[object]) -> None:
        target = self.top(list, "items come")
        assert isinstance(target, list)
        self.pay(32 + 16 * len(items))
        target += items

    def set_items(self, items: list[object]) -> None:
        target = self.top(dict, "items come")
        assert isinstance(target, dict)
        if len(items) % 2:
            raise self.refusal("a key comes without its value")
        self.pay(128 + 100 * len(items) // 2)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.plain(key)] = value

    def add_items(self) -> None:
        items = self.pop_mark()
        target = self.top(set, "members come")
        assert isinstance(target, set)
        self.pay(128 + 100 * len(items))
        target.update(map(self.plain, items))

    def plain(self, key: object) -> object:
        # Large integers may all have the same hash, which makes a mapping of them slow.
        if type(key) is not str and (type(key) is not int or not 0 <= key < 2**31):
            raise self.refusal(f"a key or a member of a set is {_kind(key)}, not short text or a number of 31 bits")
        return key

    # The memo.

    def put(self, index: int) -> None:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.refusal("nothing is there to remember")
        self.pay(128)
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.refusal(f"value {index} of the memo was never put there")
        self.push(self.memo[index], 16)

    # Names and calls: records.

    def name(self, module: str, name: str) -> None:
        path = f"{module}.{name}"
        if path not in self.names:
            raise self.refusal(f"it names {path[:MAX_NAME]!a}, which no file of this format does")
        self.push(Name(path), 128 + len(path))

    def global_name(self) -> None:
        lines = []
        for _ in range(2):
            found = bytes(self.data[self.position : self.position + MAX_NAME]).find(b"\n")
            if found < 0:
                raise self.refusal(f"a name is longer than {MAX_NAME} bytes")
            lines.append(self.decode(self.take(found + 1)[:found]))
        self.name(*lines)

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise self.refusal("a name is not text")
        self.name(module, name)

    def call(self) -> None:
        args, function = self.pop(), self.pop()
        if type(function) is not Name or type(args) is not tuple:
            raise self.refusal(
                f"what is called is {_kind(function)}, its arguments are {_kind(args)}; not a name and a tuple"
            )
        if function.path in _MAPPINGS and not args:
            self.push({}, 64)
        elif function.path in _SETS and len(args) <= 1 and all(type(members) is list for members in args):
            members = [self.plain(member) for given in args for member in given]  # type: ignore[attr-defined]
            self.push(set(members), 256 + 100 * len(members))
        else:
            self.push(Call(function.path, args, self.at), 96)
            if self.on_call is not None:
                self.on_call(self.stack[-1])  # type: ignore[arg-type]

    def build(self) -> None:
        state = self.pop()
        if self.persistent and len(self.stack) > (self.marks[-1] if self.marks else 0) and type(self.stack[-1]) is dict:
            return  # attributes of a mapping, which torch.save keeps of state dicts: versions of modules
        target = self.top(Call, "a state comes")
        assert isinstance(target, Call)
        if target.state is not None:
            raise self.refusal(f"{target.name} gets a state twice")
        self.pay(16)
        target.state = state

    def persistent_id(self) -> None:
        if not self.persistent:
            raise self.refusal("a persistent id, which files of this format do not have")
        self.push(Call(PERSISTENT, (self.pop(),), self.at), 160)

    # What a file says of itself.

    def protocol(self) -> None:
        version = self.take(1)[0]
        self.pay(16)
        if not 2 <= version <= 5:
            raise self.refusal(f"protocol {version} of pickle, not 2 to 5")

    def frame(self) -> None:
        length = self.number(_U64)
        self.pay(16)
        if self.position < self.frame_end:
            raise self.refusal("a frame begins within another")
        if length > len(self.data) - self.position:
            raise self.refusal(f"a frame of {length:,} bytes where {len(self.data) - self.position:,} are left")
        self.frame_end = self.position + length


def _kind(value: object) -> str:
    return value.path if isinstance(value, Name) else f"of type {type(value).__name__.lower()}"


_U8, _U16, _U32, _U64, _I32 = (struct.Struct(f"<{code}") for code in "BHIQi")
_F64 = struct.Struct(">d")
_STOP = ord(".")
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_ACTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("N"): lambda m: m.push(None, 16),
    0x88: lambda m: m.push(True, 16),
    0x89: lambda m: m.push(False, 16),
    ord("J"): lambda m: m.push(m.number(_I32), 48),
    ord("K"): lambda m: m.push(m.number(_U8), 16),
    ord("M"): lambda m: m.push(m.number(_U16), 48),
    0x8A: _Machine.integer,
    ord("G"): lambda m: m.push(_F64.unpack(m.take(8))[0], 48),
    0x8C: lambda m: m.text(_U8),
    ord("X"): lambda m: m.text(_U32),
    0x8D: lambda m: m.text(_U64),
    ord("C"): lambda m: m.bytes(_U8),
    ord("B"): lambda m: m.bytes(_U32),
    0x8E: lambda m: m.bytes(_U64),
    0x96: lambda m: m.bytes(_U64),
    ord("("): _Machine.mark,
    ord(")"): lambda m: m.push((), 16),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("t"): _Machine.tuple_from_mark,
    ord("]"): lambda m: m.push([], 80),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_mark()),
    ord("}"): lambda m: m.push({}, 80),
    ord("s"): lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    0x8F: lambda m: m.push(set(), 256),
    0x90: _Machine.add_items,
    ord("q"): lambda m: m.put(m.number(_U8)),
    ord("r"): lambda m: m.put(m.number(_U32)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.number(_U8)),
    ord("j"): lambda m: m.get(m.number(_U32)),
    ord("c"): _Machine.global_name,
    0x93: _Machine.stack_name,
    ord("R"): _Machine.call,
    0x81: _Machine.call,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent_id,
}
