"""Pickles, read without running anything that is in them.

A pickle is a program for a stack machine. This machine knows only the operations that
build plain values. What a name stands for is never looked up: a name becomes a
``StandIn``, calling one gives another, and whoever reads the pickle says which names
make something (``Makers``). So no pickle can import, call or change anything.

The work is bounded too. A value is hashed only if it is a text or a small number, and
no operation copies what others have built. So time and memory follow from the number
of operations and their bytes, which ``read_pickle`` limits.
"""

import pickletools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, cast

MOST_BYTES = 32 << 20
"""The largest pickle. That of a training checkpoint with 10,000 tensors has 2 MB."""
MOST_OPERATIONS = 1_000_000
"""The most operations of a pickle; a tensor takes about 35."""
_LONGEST_NAME = 300
_LAST_PLACE = 2**32 - 1
_MOST_BITS = 128
"""Numbers of more bits serve no purpose in a weight file, and cost time."""


class Unreadable(Exception):
    """A file that is not read. The message is the reason; it calls the file "it"."""


class StandIn:
    """Stands in for a name in a pickle, or for an object of a foreign class.

    ``name`` is that of the class or function. ``is_object`` distinguishes an object
    from the class itself. ``state`` and ``table`` are what the pickle gives the object:
    its attributes, and its items if it is a kind of dict.
    """

    __slots__ = ("is_object", "name", "state", "table")

    def __init__(self, name: str, *, is_object: bool = False) -> None:
        self.name = name
        self.is_object = is_object
        self.state: object = None
        self.table: dict[object, object] | None = None


class Reader(Protocol):
    """A file from which a pickle is read."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        ...

    def readline(self, size: int, /) -> bytes:
        """Return a line, at most ``size`` bytes of it."""
        ...


Maker = Callable[[tuple[object, ...]], object]
"""Makes a value of the arguments with which a name is called. Raises ValueError."""
Makers = Mapping[str, Maker]
"""Makers by the full names for which they stand."""


def read_pickle(
    file: Reader,
    makers: Makers | None = None,
    resolve: Callable[[object], object] = lambda _: StandIn(
        "persistent", is_object=True
    ),
) -> object:
    """The content of the pickle that begins at the place where ``file`` is.

    Afterwards ``file`` is behind it. ``resolve`` turns persistent ids into values.

    Raises Unreadable for a pickle that is damaged, that is too large, or that wants
    to run code. Unknown names become stand-ins; those of Python's own library that
    are no data types are refused, although they would not be called.
    """
    machine = _Machine(makers or {}, resolve or _nothing)
    try:
        return machine.run(pickletools.genops(cast("IO[bytes]", _Bounded(file))))
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise Unreadable("it is cut short or damaged") from error


def _nothing(_: object) -> StandIn:
    return StandIn("persistent", is_object=True)


class _Bounded:
    """Reads at most ``MOST_BYTES``. It has only the methods that genops calls."""

    def __init__(self, file: Reader) -> None:
        self._file = file
        self._left = MOST_BYTES

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._left + 1))

    def _counted(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise Unreadable(f"its pickle is larger than {MOST_BYTES >> 20} MB")
        return content


@dataclass
class _Machine:
    makers: Makers
    resolve: Callable[[object], object]
    stack: list[object] = field(default_factory=list[object])
    marks: list[int] = field(default_factory=list[int])
    memo: dict[int, object] = field(default_factory=dict[int, object])
    left: int = MOST_OPERATIONS

    def run(self, operations: Iterable[tuple[Any, Any, Any]]) -> object:
        for operation, argument, _ in operations:
            self.spend(1)
            act = _ACTIONS.get(operation.name)
            if act is None:
                reason = f"it uses {operation.name}, which no weight file needs"
                raise Unreadable(reason)
            act(self, argument)
        return self.stack.pop()

    def spend(self, operations: int) -> None:
        self.left -= operations
        if self.left < 0:
            reason = f"its pickle has more than {MOST_OPERATIONS} operations"
            raise Unreadable(reason)

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        return self.stack.pop()

    def mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[object]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def last(self, count: int) -> tuple[object, ...]:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise ValueError
        del self.stack[-count:]
        return items

    def number(self, value: int) -> None:
        is_small = value.bit_length() <= _MOST_BITS
        self.push(value if is_small else StandIn("int", is_object=True))

    def remember(self, place: int) -> None:
        if not 0 <= place <= _LAST_PLACE:
            raise ValueError
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        self.push(self.memo[place])

    def append(self, items: Iterable[object]) -> None:
        if isinstance(target := self.stack[-1], list):
            cast("list[object]", target).extend(items)

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, StandIn):
            target.table = target.table or {}
            target = target.table
        if not isinstance(target, dict):
            raise ValueError
        table = cast("dict[object, object]", target)
        for key, value in zip(items[::2], items[1::2], strict=True):
            table[hashable(key)] = value

    def build(self) -> None:
        state = self.pop()
        if isinstance(target := self.stack[-1], StandIn):
            target.state = state

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError
        self.push(StandIn(_checked_name(module, name)))

    def call(self, function: object, arguments: object) -> None:
        if not isinstance(function, StandIn) or not isinstance(arguments, tuple):
            raise ValueError
        known = cast("tuple[object, ...]", arguments)
        if function.name == "builtins.getattr":
            _check_attribute(known)
        if function.name in _MAPPINGS and not function.is_object:
            self.push(self._mapping(known))
        elif (maker := self.makers.get(function.name)) and not function.is_object:
            self.push(maker(known))
        else:
            self.push(StandIn(function.name, is_object=True))

    def _mapping(self, arguments: tuple[object, ...]) -> dict[object, object]:
        """Python 2 gave the items of an OrderedDict as a list of pairs."""
        pairs = arguments[0] if arguments else None
        if not isinstance(pairs, list):
            return {}
        items = cast("list[tuple[object, object]]", pairs)
        self.spend(len(items))
        return {hashable(key): value for key, value in items}


_MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict")


def hashable(key: object) -> object:
    """``key``, or a stand-in if hashing it might take long."""
    is_small = isinstance(key, int) and key.bit_length() <= 31
    is_plain = is_small or key is None or isinstance(key, str | StandIn)
    return key if is_plain else StandIn("key", is_object=True)


_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Names that Python 2 gave to modules."""
_PYTHON = sys.stdlib_module_names | {"commands", "urllib2", "popen2", "distutils"}
"""Modules of Python's own library, old ones too."""
_DATA = {
    module: frozenset(names.split())
    for module, names in {
        "_codecs": "encode",
        "_operator": "getitem",
        "argparse": "Namespace",
        "array": "array _array_reconstructor",
        "builtins": "bool bytearray bytes complex dict float frozenset getattr int list"
        " long object range set slice str tuple type unicode xrange",
        "collections": "ChainMap Counter OrderedDict UserDict UserList defaultdict"
        " deque",
        "copyreg": "_reconstructor __newobj__",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "enum": "Enum EnumMeta EnumType Flag IntEnum IntFlag StrEnum",
        "fractions": "Fraction",
        "functools": "partial",
        "io": "BytesIO StringIO",
        "ipaddress": "IPv4Address IPv6Address",
        "logging": "Logger RootLogger getLogger",
        "operator": "getitem",
        "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
        "random": "Random",
        "re": "_compile",
        "time": "struct_time",
        "types": "MappingProxyType SimpleNamespace",
        "typing": "Any Callable Dict List Literal Optional Sequence Set Tuple Union",
        "uuid": "SafeUUID UUID",
    }.items()
}
"""Types of Python's library that trainers store with the weights."""


def _checked_name(module: str, name: str) -> str:
    """The full name. Raises Unreadable for one that is there only to run code."""
    module = _OLD_MODULES.get(module, module)
    full_name = f"{module[:_LONGEST_NAME]}.{name[:_LONGEST_NAME]}"
    if len(full_name) > _LONGEST_NAME or not full_name.isprintable():
        raise ValueError
    is_python = module.partition(".")[0] in _PYTHON
    if is_python and name not in _DATA.get(module, ()):
        raise _wants_to_run(full_name)
    return full_name


def _check_attribute(arguments: tuple[object, ...]) -> None:
    """Members of a foreign enumeration are pickled so; nothing else needs it."""
    owner = arguments[0] if arguments else None
    is_foreign = isinstance(owner, StandIn) and not _is_python(owner.name)
    if not is_foreign:
        raise _wants_to_run("builtins.getattr")


def _is_python(full_name: str) -> bool:
    return full_name.partition(".")[0] in _PYTHON


def _wants_to_run(full_name: str) -> Unreadable:
    shown = full_name.removeprefix("builtins.")
    return Unreadable(f"it wants to run code ({shown}), which is refused")


Action = Callable[[_Machine, Any], object]


def _instance(machine: _Machine, name: str) -> None:
    arguments = tuple(machine.since_mark())
    _global(machine, name)
    machine.call(machine.pop(), arguments)


def _object(machine: _Machine, _: object) -> None:
    function, *arguments = machine.since_mark()
    machine.call(function, tuple(arguments))


def _global(machine: _Machine, names: str) -> None:
    machine.name(*names.split(" ", 1))


def _frozen_set(machine: _Machine, _: object) -> None:
    machine.since_mark()
    machine.push(StandIn("frozenset", is_object=True))


def _dict(machine: _Machine, _: object) -> None:
    items = machine.since_mark()
    machine.push({})
    machine.set_items(items)


_CONSTANTS = (
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    *("BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "FLOAT", "BINFLOAT", "NONE"),
)
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
_IGNORED = ("PROTO", "FRAME", "STOP")
_ACTIONS: Mapping[str, Action] = {
    **dict.fromkeys(_CONSTANTS, _Machine.push),
    **dict.fromkeys(_NUMBERS, _Machine.number),
    **dict.fromkeys(_IGNORED, lambda _machine, _: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(StandIn("set", is_object=True)),
    "FROZENSET": _frozen_set,
    "MARK": _Machine.mark,
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.last(3)),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "DICT": _dict,
    "APPEND": lambda machine, _: machine.append(machine.last(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.since_mark(),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.last(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": _global,
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.last(2)),
    "INST": _instance,
    "OBJ": _object,
    "REDUCE": lambda machine, _: machine.call(*machine.last(2)),
    "NEWOBJ": lambda machine, _: machine.call(*machine.last(2)),
    "NEWOBJ_EX": lambda machine, _: machine.call(*machine.last(3)[:2]),
    "BUILD": lambda machine, _: machine.build(),
    "PERSID": lambda machine, argument: machine.push(machine.resolve(argument)),
    "BINPERSID": lambda machine, _: machine.push(machine.resolve(machine.pop())),
}
