"""A file appears complete or not at all, whoever else writes it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from safetensors.torch import save_file

from animatediff.atomic import hidden_folder, written_whole
from animatediff.checkpoints.files import read_weights

WEIGHTS = {"a": torch.arange(4.0)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_can_be_read_as_any_new_file_can(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    path = tmp_path / "folder" / "x.safetensors"
    with written_whole(path) as part:
        assert part.suffix == ".safetensors"
        save_file(WEIGHTS, part)
    assert names(tmp_path / "folder") == ["x.safetensors"]
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert read_weights(path).keys() == WEIGHTS.keys()


def test_what_is_half_written_leaves_the_old_file_alone(tmp_path: Path) -> None:
    def write_half() -> None:
        with written_whole(path) as part:
            part.write_bytes(b"half")
            raise OSError("disk full")

    path = tmp_path / "x.safetensors"
    save_file(WEIGHTS, path)
    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert names(tmp_path) == ["x.safetensors"]
    assert read_weights(path).keys() == WEIGHTS.keys()


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with written_whole(tmp_path / "x") as part:
            part.with_name("tags").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


def test_until_it_is_complete_only_a_hidden_name_is_there(tmp_path: Path) -> None:
    with written_whole(tmp_path / "x.gif") as part:
        part.write_bytes(b"half")
        assert [name[0] for name in names(tmp_path)] == ["."]
    assert names(tmp_path) == ["x.gif"]


def test_two_threads_may_write_one_file(tmp_path: Path) -> None:
    both = Barrier(2, timeout=5)

    def write(content: bytes) -> None:
        with written_whole(tmp_path / "x") as part:
            part.write_bytes(content[:1])
            both.wait()
            part.write_bytes(content)
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (b"aaaa", b"bbbb")))
    assert (tmp_path / "x").read_bytes() in (b"aaaa", b"bbbb")
    assert names(tmp_path) == ["x"]


def test_missing_folders_are_made_on_request(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "x"
    with pytest.raises(FileNotFoundError), written_whole(missing, parents=False):
        pytest.fail("there is nowhere to write")
    with written_whole(missing) as part:
        part.write_bytes(b"x")
    assert missing.read_bytes() == b"x"


def test_a_hidden_folder_goes_with_its_content(tmp_path: Path) -> None:
    with hidden_folder(tmp_path) as folder:
        (folder / "x").write_bytes(b"x")
        (folder / "y").write_bytes(b"y")
        (folder / "y").replace(tmp_path / "y")
    assert names(tmp_path) == ["y"]
