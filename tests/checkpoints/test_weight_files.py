"""Files as such, whatever their weights are for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from animatediff.checkpoints.files import (
    check_finite,
    count_values,
    read_weights,
    renamed,
)
from animatediff.errors import CheckpointError

WEIGHTS = {
    "down.weight": torch.arange(12.0).reshape(3, 4),
    "up.weight": torch.ones(5, dtype=torch.float16),
}
SAVERS = {
    "safetensors": lambda path: save_file(WEIGHTS, path),
    "ckpt": lambda path: torch.save(WEIGHTS, path),
    "pt": lambda path: torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False),
}


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("was-run"),))


@pytest.mark.parametrize("suffix", SAVERS)
def test_every_container_holds_the_same(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    SAVERS[suffix](path)
    read = read_weights(path)
    assert read.keys() == WEIGHTS.keys()
    assert all(
        torch.equal(read[key], WEIGHTS[key]) and read[key].dtype == WEIGHTS[key].dtype
        for key in WEIGHTS
    )


@pytest.mark.parametrize("wrapper", ["state_dict", "controlnet", "string_to_param"])
def test_what_trainers_put_around_the_weights_is_taken_off(
    wrapper: str, tmp_path: Path
) -> None:
    torch.save(
        {"epoch": 3, wrapper: {**WEIGHTS, "note": "text"}, "optimizer": {"lr": 1e-4}},
        tmp_path / "x.ckpt",
    )
    assert read_weights(tmp_path / "x.ckpt").keys() == WEIGHTS.keys()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.safetensors", b"", "it is empty"),
        ("a.ckpt", b"", "it is empty"),
        (
            "a.safetensors",
            b"a page of text",
            "neither a safetensors nor a PyTorch file",
        ),
        ("a.ckpt", b"a page of text", "neither a safetensors nor a PyTorch file"),
        ("a.bin", b"\n<!DOCTYPE html>", "it is a web page"),
        ("a.ckpt", b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        ("a.pt", b"GGUF\3\0\0\0", "it is a GGUF file"),
        ("a.pt", b"storages".ljust(257, b"\0") + b"ustar", "PyTorch's layout before"),
        ("a.pt", b"\x80\x02}.", "a pickle, but not one of PyTorch's"),
        (
            "a.pt",
            b"\x80\x02c__builtin__\neval\n(X\x01\x00\x00\x001tR.",
            r"it wants to run code \(eval\)",
        ),
        (
            "a.safetensors",
            (17 << 20).to_bytes(8, "little") + b"{",
            "its header is larger than 16 MB",
        ),
    ],
)
def test_files_that_are_no_weights_are_refused_with_a_reason(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}.*{reason}") as caught:
        read_weights(tmp_path / name)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("suffix", SAVERS)
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_a_cut_file_is_called_cut(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    SAVERS[suffix](path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", SAVERS)
def test_whatever_byte_is_wrong_the_error_is_ours(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    SAVERS[suffix](path)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 3):
        path.unlink()  # the one before may still be mapped into memory
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :]
        )
        try:
            read_weights(path)
        except CheckpointError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_cannot_run_code(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(
        {**WEIGHTS, "a": Evil()}, "evil.ckpt", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(CheckpointError, match=r"wants to run code \(getattr\)"):
        read_weights("evil.ckpt")
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    "content", [{}, {"state_dict": {}}, {"state_dict": {"lr": 0.1}}, {"epoch": 1}]
)
def test_a_file_without_any_weights_is_refused(content: dict, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="x.ckpt holds no weights"):
        read_weights(tmp_path / "x.ckpt")


def test_an_empty_safetensors_table_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="x.safetensors holds no weights"):
        read_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [[torch.zeros(3)], 3, None, "text"])
def test_content_that_is_no_table_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no table of weights"):
        read_weights(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(2, 3).to_sparse(), "not a table of real numbers .sparse_coo"),
        (
            torch.ones(2, 3, dtype=torch.complex64),
            "not a table of real numbers .*complex64",
        ),
        (torch.ones(2, 3, device="meta"), "not a table of real numbers .*meta"),
        (
            torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            "not a table of real numbers .*float4",
        ),
        (torch.zeros(()).expand(10**12), "claims more numbers than the file holds"),
    ],
)
def test_tensors_that_cannot_be_computed_with_are_refused(
    tensor: torch.Tensor, reason: str, tmp_path: Path
) -> None:
    torch.save({**WEIGHTS, "odd.weight": tensor}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=rf"x\.ckpt: odd\.weight .*{reason}"):
        read_weights(tmp_path / "x.ckpt")


@pytest.mark.parametrize("key", ["\ud800", "a\0b", "x" * 100_000])
def test_keys_that_cannot_be_shown_are_refused(key: str, tmp_path: Path) -> None:
    torch.save({**WEIGHTS, key: torch.ones(1)}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="whose key is not a printable name"):
        read_weights(tmp_path / "x.ckpt")


@pytest.mark.parametrize("suffix", SAVERS)
@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt", "x.bin", "x"])
def test_the_content_decides_the_reader(name: str, suffix: str, tmp_path: Path) -> None:
    SAVERS[suffix](tmp_path / name)
    assert read_weights(tmp_path / name).keys() == WEIGHTS.keys()
    numbers = sum(tensor.numel() for tensor in WEIGHTS.values())
    is_exact = suffix == "safetensors"
    assert (count_values(tmp_path / name) == numbers) == is_exact


def test_a_tensor_without_a_table_has_a_key(tmp_path: Path) -> None:
    torch.save(WEIGHTS["up.weight"], tmp_path / "x.pt")
    ((key, tensor),) = read_weights(tmp_path / "x.pt").items()
    assert key == "*"
    assert torch.equal(tensor, WEIGHTS["up.weight"])


@pytest.mark.slow
def test_a_file_of_very_many_tensors_is_refused(tmp_path: Path) -> None:
    save_file({f"{i:x}": torch.zeros(0) for i in range(50_001)}, tmp_path / "x.st")
    with pytest.raises(CheckpointError, match="50001 tensors; allowed: at most 50000"):
        read_weights(tmp_path / "x.st")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.float8_e5m2,
    ],
)
@pytest.mark.parametrize("place", [0, 4_321, 9_999])
def test_numbers_that_are_not_finite_are_refused_by_key(
    place: int, dtype: torch.dtype, number: float
) -> None:
    weights = {**WEIGHTS, "a.weight": torch.ones(10_000).to(dtype)}
    check_finite("x", weights)
    wrong = torch.ones(10_000)
    wrong[place] = number
    weights["a.weight"] = wrong.to(dtype)
    with pytest.raises(CheckpointError, match="^x holds NaN or infinity in a.weight$"):
        check_finite("x", weights)


def test_other_numbers_are_finite() -> None:
    check_finite(
        "x",
        {
            "empty": torch.zeros(0),
            "whole": torch.arange(3),
            "flags": torch.tensor([True, False]),
            "largest": torch.tensor([65504.0, -65504.0]).half(),
            "strided": torch.ones(4, 4)[:, ::2],
        },
    )


def test_two_names_for_one_weight_are_refused() -> None:
    with pytest.raises(CheckpointError, match="x holds 1 weights twice"):
        renamed(
            "x",
            {"a": torch.zeros(1), "module.a": torch.zeros(1)},
            lambda key: key.removeprefix("module."),
        )
