"""Pickles that attack whoever reads them, and what becomes of each."""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

TOUCH = "touch was-run"


def text(value: str) -> bytes:
    """Operations that push a text."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def called(name: str, argument: bytes = text(TOUCH)) -> bytes:
    """Operations that call the global ``name`` ("module name") with one argument."""
    module, attribute = name.split()
    return f"c{module}\n{attribute}\n".encode() + argument + b"\x85R"


def pickled(body: bytes) -> bytes:
    """A pickle of these operations."""
    return b"\x80\x02" + body + b"."


def in_dict(value: bytes, key: bytes = text("a")) -> bytes:
    """A pickle of a dict with one key; both arguments are operations."""
    return pickled(b"}" + key + value + b"s")


def zipped(pickle: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file as PyTorch writes it, with this ``pickle`` in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(16))
    return file.getvalue()


def before_1_6(pickle: bytes) -> bytes:
    """A file in PyTorch's older layout, with this ``pickle`` in it."""
    file = io.BytesIO()
    torch.save({}, file, _use_new_zipfile_serialization=False)
    empty = pickled(b"}q\x00")
    assert file.getvalue().count(empty) == 1
    return file.getvalue().replace(empty, pickle)


CONTAINERS: Mapping[str, Callable[[bytes], bytes]] = {
    "bare": lambda pickle: pickle,
    "zip": zipped,
    "before 1.6": before_1_6,
}
RUNNING = {
    name: called(name)
    for name in (
        *("os system", "posix system", "nt system", "subprocess Popen"),
        *("builtins eval", "builtins exec", "__builtin__ eval", "builtins __import__"),
        *("builtins compile", "builtins open", "builtins getattr", "runpy run_path"),
        *("importlib import_module", "ctypes CDLL", "shutil rmtree", "pickle loads"),
        *("operator methodcaller", "types FunctionType", "socket socket"),
        *("commands getoutput", "pathlib Path.touch", "collections namedtuple"),
        *("functools reduce", "sys exit", "copyreg add_extension"),
    )
}
"""Calls of Python's own library, which are refused by name."""
INERT = {
    name: called(name)
    for name in (
        *("torch load", "torch.hub load", "torch.serialization load"),
        *("torch.storage _load_from_bytes", "torch.jit load", "torch.ops load_library"),
        *("torch.utils.cpp_extension load", "torch._C _jit_script_compile"),
        *("numpy load", "numpy.core.multiarray scalar", "joblib load", "pip main"),
        *("animatediff.atomic written_whole", "safetensors.torch load_file"),
        *("pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint",),
    )
}
"""Calls of other libraries, of which nothing is looked up."""


def _doubled(levels: int) -> bytes:
    """A tuple of the level below, twice; hashing it takes 2 ** levels steps."""
    steps = (bytes((ord("q"), i, ord("h"), i, 0x86)) for i in range(levels))
    return b")" + b"".join(steps)


DEEP = 300_000
BOMBS: Mapping[str, bytes] = {
    "key of nested tuples": in_dict(b"N", b")" + b"\x85" * DEEP),
    "key of doubled tuples": in_dict(b"N", _doubled(60)),
    "member of a set": pickled(b"\x8f(" + _doubled(60) + b"\x90"),
    "frozen set": pickled(b"(" + _doubled(60) + b"\x91"),
    "nested lists": pickled(b"}" + text("a") + b"]" * DEEP + b"a" * (DEEP - 1) + b"s"),
    "nested states": in_dict(b"cm\nc\n" + b")\x81cm\nc\n" * 90_000 + b"b" * 90_000),
    "list in itself": in_dict(b"]q\x00h\x00a"),
    "argument of doubled tuples": in_dict(b"ctorch\nSize\n" + _doubled(60) + b"\x85R"),
    "storage of doubled tuples": pickled(
        text("storage") + b"ctorch\nFloatStorage\n" + _doubled(60) + b"NN\x85Q"
    ),
    "colliding numbers": pickled(
        b"}("
        + b"".join(
            b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") + b"N"
            for i in range(1, 60_000)
        )
        + b"u"
    ),
    "colliding places": pickled(
        b"}" + b"".join(f"p{i * (2**61 - 1)}\n".encode() for i in range(1, 40_000))
    ),
    "long names": pickled(
        text("m" * 10_000) + b"q\x00" + b"".join(b"h\x00h\x00\x93" for _ in range(99))
    ),
}
"""Small pickles that would take for ever, or the whole process, if they were built."""
LARGE: Mapping[str, tuple[bytes, str]] = {
    "operations": (pickled(b"N0" * 600_000 + b"}"), "more than 1000000 operations"),
    "bytes": (in_dict(text("x" * (33 << 20))), "larger than 32 MB"),
    "repeated pairs": (
        pickled(
            b"]q\x00("
            + b"NN\x86" * 9_000
            + b"e0"
            + b"ccollections\nOrderedDict\nq\x01"
            + b"h\x01h\x00\x85R0" * 9_000
            + b"}"
        ),
        "more than 1000000 operations",
    ),
}
"""Pickles beyond the limits, and what the refusal says."""


def write(path: Path, content: bytes) -> Path:
    """Write the file, and return its path."""
    path.write_bytes(content)
    return path
