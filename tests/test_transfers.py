"""Weights cross to a GPU through two buffers."""

import pytest
import torch

from animatediff.transfers import Staging, send_weights
from lab.counting.fake_cuda import DEVICE
from lab.counting.host_waits import HostWaits

CPU = torch.device("cpu")


class Events:
    """Stands for ``torch.Event``."""

    waits: list[int]

    def __init__(self, _device: torch.device) -> None:
        self.records = 0

    def record(self) -> None:
        self.records += 1

    def synchronize(self) -> None:
        self.waits.append(self.records)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    waits: list[int] = []
    monkeypatch.setattr(Events, "waits", waits, raising=False)
    monkeypatch.setattr(torch, "Event", Events)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    return waits


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 7), (2, 3, 4, 5)])
@pytest.mark.usefixtures("waits")
def test_a_tensor_arrives_as_it_was(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = (torch.randn(shape) * 100).to(dtype)
    strided = torch.randn(4, 6).t()
    staging = Staging(CPU, size=24)
    for each in (tensor, strided, tensor):
        got = staging.send(each)
        assert torch.equal(got, each)
        assert got.is_contiguous()
        assert each.numel() == 0 or got.data_ptr() != each.data_ptr()


def test_a_buffer_is_filled_again_when_it_has_crossed(waits: list[int]) -> None:
    """Each wait is for the last use of the same buffer, none of them for the latest."""
    Staging(CPU, size=8).send(torch.randn(10))
    assert waits == [0, 0, 1, 1, 2]


@pytest.mark.usefixtures("fake_cuda")
def test_weights_are_cast_on_the_device() -> None:
    weights = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    with HostWaits() as device:
        sent = send_weights(weights, DEVICE, torch.float16)
    assert device.waits == []
    assert {(each.device, each.dtype) for each in sent.values()} == {
        (DEVICE, torch.float16)
    }
    assert torch.equal(send_weights(weights, CPU, torch.float64)["b"], weights["b"])
