"""What pickles may hold, and that nothing in them is ever run."""

import argparse
import copy
import datetime
import functools
import io
import logging
import pathlib
import re
import sys
import time
import types
import typing
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from animatediff.checkpoints import pickles
from animatediff.checkpoints.files import read_content, read_weights
from animatediff.checkpoints.pickles import StandIn, Unreadable, read_pickle
from animatediff.errors import CheckpointError
from lab.hostile.pickles import (
    BOMBS,
    CONTAINERS,
    INERT,
    LARGE,
    RUNNING,
    in_dict,
    pickled,
    text,
    write,
    zipped,
)

pytestmark = pytest.mark.slow

WEIGHTS = {"down.weight": torch.arange(12.0).reshape(3, 4), "up.weight": torch.ones(5)}


@pytest.fixture(autouse=True)
def _watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be called, opened or imported because a pickle says so."""
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle ran code")

    for name in ("os.system", "torch.load", "torch.hub.load", "numpy.load"):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr("torch.storage._load_from_bytes", refuse)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", RUNNING)
def test_python_s_own_functions_are_refused_by_name(
    name: str, container: str, tmp_path: Path
) -> None:
    content = CONTAINERS[container](in_dict(RUNNING[name]))
    path = write(tmp_path / "x.ckpt", content)
    shown = name.replace(" ", ".").replace("__builtin__", "builtins")
    shown = shown.removeprefix("builtins.")
    with pytest.raises(CheckpointError, match=rf"wants to run code \({shown}\)"):
        read_weights(path)


@pytest.mark.parametrize("name", INERT)
def test_functions_of_other_libraries_are_not_called(name: str) -> None:
    content = read_pickle(io.BytesIO(in_dict(INERT[name])))
    assert isinstance(content, dict)
    assert isinstance(content["a"], StandIn)
    assert content["a"].name == name.replace(" ", ".")


@pytest.mark.parametrize(
    "operations",
    [
        b"cm\nc\n)R" + text("state") + b"b",  # __setstate__
        b"cm\nc\n)R}" + text("__class__") + b"cm\nd\nsb",
        b"cm\nc\n)R}" + text("__reduce__") + b"cm\nd\nsb",
        b"cm\nc\n)\x81)R",  # an object is called
        b"cm\nc\n)}\x92",  # with keywords
        b"(im\nc\n",
        b"(cm\nc\no",
        text("m") + text("c.d") + b"\x93)R",
        b"cm\nc\n)R" + text("item") + b"a",  # append
        b"cm\nc\n)R(" + text("item") + b"e",
        b"cm\nc\n)R" + text("key") + b"Ns",  # __setitem__
        b"cbuiltins\ngetattr\ncm\nColour\n" + text("RED") + b"\x86R",
        text("anything") + b"Q",
    ],
)
def test_every_way_to_use_a_foreign_class_makes_a_stand_in(operations: bytes) -> None:
    content = read_pickle(io.BytesIO(pickled(b"}" + text("a") + operations + b"s")))
    assert isinstance(content, dict)
    assert isinstance(content["a"], StandIn)


@pytest.mark.parametrize(
    "operations",
    [
        b"cbuiltins\ngetattr\ncpathlib\nPath\n" + text("touch") + b"\x86R",
        b"cbuiltins\ngetattr\n" + text("a") + text("b") + b"\x86R",
        b"cbuiltins\ngetattr\n)R",
    ],
)
def test_methods_of_python_s_classes_are_refused(operations: bytes) -> None:
    with pytest.raises(Unreadable, match=r"run code \(getattr\)"):
        read_pickle(io.BytesIO(pickled(operations)))


@pytest.mark.parametrize(
    "operations",
    [
        b"\x82\x01",  # an extension that someone registered
        b"\x97",  # a buffer from outside
        b"NNR",  # calls nothing
        b"cm\nc\nNR",
        b"}NNNu",
        b"R",
        b"h\x07",
        b"(((",
        b"p-1\n",
        b"Nr\xff\xff\xff",
        b"\xff",
    ],
)
def test_other_operations_are_refused(operations: bytes) -> None:
    with pytest.raises(Unreadable):
        read_pickle(io.BytesIO(b"\x80\x02" + operations))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_small_pickles_take_little_time(
    bomb: str, container: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.ckpt", CONTAINERS[container](BOMBS[bomb]))
    start = time.process_time()
    with pytest.raises(CheckpointError, match=r"^x\.ckpt "):
        read_weights(path)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", LARGE)
def test_large_pickles_are_refused(name: str, container: str, tmp_path: Path) -> None:
    pickle, reason = LARGE[name]
    path = write(tmp_path / "x.ckpt", CONTAINERS[container](pickle))
    with pytest.raises(CheckpointError, match=reason):
        read_weights(path)


def test_a_pickle_is_not_inflated(tmp_path: Path) -> None:
    small = zipped(pickled(b"N0" * 5_000_000 + b"}"), zipfile.ZIP_DEFLATED)
    assert len(small) < 100_000
    with pytest.raises(CheckpointError, match="compressed"):
        read_weights(write(tmp_path / "x.ckpt", small))


def test_a_long_list_of_entries_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickled(b"}"))
        for i in range(50_000):
            archive.writestr(zipfile.ZipInfo(f"archive/data/{i:050}"), b"")
    with pytest.raises(CheckpointError, match="list of entries is longer"):
        read_weights(tmp_path / "x.ckpt")


def test_entries_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """Each would be copied, if it does not begin at a number's place."""
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(b"}"))
        archive.writestr("archive/data/0", bytes(10_000))
        for i in range(1, 4):
            again = copy.copy(archive.getinfo("archive/data/0"))
            again.filename = f"archive/data/{i}"
            archive.filelist.append(again)
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        read_weights(path)


def foreign(name: str) -> tuple[type, dict[str, types.ModuleType]]:
    """A class ``name``, and the modules in which ``pickle`` expects it."""
    module, _, attribute = name.rpartition(".")
    created = type(attribute, (), {"__module__": module})
    parts = module.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    modules = {name: types.ModuleType(name) for name in names}
    setattr(modules[module], attribute, created)
    return created, modules


@pytest.mark.parametrize("zip_file", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_trainers_keep_is_passed_over(
    protocol: int, zip_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback, modules = foreign("pytorch_lightning.callbacks.ModelCheckpoint")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    item: Any = callback()
    item.score, item.folder = torch.tensor(1.0), Path("runs/1")
    content = {
        "state_dict": WEIGHTS,
        "epoch": 3,
        "callbacks": {callback: item},
        "best": np.float64(0.3),
        "history": np.arange(3.0),
        "betas": (0.9, 0.999),
        "seen": {1, 2},
        "frozen": frozenset("ab"),
        "raw": b"bytes",
        (1, (2, 3)): "a key of numbers",
        "pattern": re.compile("a+"),
        "log": logging.getLogger("trainer"),
        "started": datetime.datetime.now(datetime.UTC),
        "options": argparse.Namespace(folder=pathlib.PurePosixPath("a")),
        "make": functools.partial(dict, a=1),
        "hint": typing.Optional[int],  # noqa: UP045 - as older code writes it
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "loss": nn.MSELoss(),
        "optimizer": torch.optim.AdamW([nn.Parameter(torch.ones(2))]),
    }
    torch.save(
        content,
        tmp_path / "x.ckpt",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zip_file,
    )
    for name in modules:
        monkeypatch.delitem(sys.modules, name)
    read = read_weights(tmp_path / "x.ckpt")
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[key], WEIGHTS[key]) for key in WEIGHTS)


class Attributes(dict[str, Any]):
    """A dict of a trainer's own class."""


@pytest.mark.parametrize("zip_file", [True, False])
@pytest.mark.parametrize(
    "table",
    [
        OrderedDict(WEIGHTS),
        Attributes(WEIGHTS),
        {**WEIGHTS, "loss": 0.5, "note": np.float32(1)},
        {"state_dict": {"state_dict": 1, **WEIGHTS}},
        {key: nn.Parameter(tensor) for key, tensor in WEIGHTS.items()},
    ],
    ids=["ordered", "own class", "with others", "wrapped", "parameters"],
)
def test_kinds_of_tables(table: Any, zip_file: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(table, path, _use_new_zipfile_serialization=zip_file)
    read = read_weights(path)
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[key], WEIGHTS[key]) for key in WEIGHTS)
    assert not any(tensor.requires_grad for tensor in read.values())


@pytest.mark.parametrize("zip_file", [True, False])
def test_views_and_tied_weights(zip_file: bool, tmp_path: Path) -> None:
    whole = torch.arange(24.0)
    views: dict[str, Tensor] = {
        "whole": whole,
        "part": whole[6:12].reshape(2, 3),
        "transposed": whole.reshape(4, 6).T,
        "strided": whole[::5],
        "scalar": whole[7],
        "empty": whole[:0],
        "again": whole,
        "double": torch.arange(3.0, dtype=torch.float64),
        "half": torch.arange(3.0).half(),
        "float8": torch.arange(3.0).to(torch.float8_e4m3fn),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    path = tmp_path / "x.pt"
    torch.save(views, path, _use_new_zipfile_serialization=zip_file)
    read = read_weights(path)
    assert read.keys() == views.keys()
    for key, tensor in views.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key].float(), tensor.float()), key


def test_numbers_that_are_used_again_and_again_are_refused(tmp_path: Path) -> None:
    whole = torch.zeros(100_000)
    torch.save({str(i): whole[i:] for i in range(20)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="claims more numbers than it holds"):
        read_weights(tmp_path / "x.pt")


def test_a_torchscript_program_is_called_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickled(b"}"))
        archive.writestr("x/constants.pkl", pickled(b")"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_weights(tmp_path / "x.pt")


def test_big_endian_numbers_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickled(b"}"))
        archive.writestr("x/byteorder", "big")
    with pytest.raises(CheckpointError, match="big-endian"):
        read_weights(tmp_path / "x.pt")


def test_a_file_s_own_name(tmp_path: Path) -> None:
    torch.save({"state_dict": WEIGHTS, "name": "cat"}, tmp_path / "x.pt")
    assert read_content(tmp_path / "x.pt").title == "cat"
    for other in (3, None, "x" * 101, "a\nb"):
        torch.save({"state_dict": WEIGHTS, "name": other}, tmp_path / "x.pt")
        assert read_content(tmp_path / "x.pt").title is None


def test_the_limits_leave_room_for_real_files() -> None:
    """10,000 tensors, as a training checkpoint of a large model has."""
    tensors = {f"model.layer.{i}.weight": torch.zeros(1) for i in range(1_000)}
    file = io.BytesIO()
    torch.save(tensors, file)
    with zipfile.ZipFile(file) as archive:
        size = len(archive.read("archive/data.pkl"))
    assert 10 * 10 * size < pickles.MOST_BYTES
