"""What errors say about the device: texts of torch and of the libraries beneath it."""

import pytest
import torch

from animatediff.device import (
    Trouble,
    answers,
    device_room,
    spare_memory,
    trouble_of,
)
from animatediff.errors import InvalidRequest
from animatediff.settings import Settings

NO_MEMORY = """\
CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB
CUDA error: out of memory
HIP out of memory. Tried to allocate 2.00 GiB
CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`
cuDNN error: CUDNN_STATUS_ALLOC_FAILED
cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
Unable to find a valid cuDNN algorithm to run convolution
GET was unable to find an engine to execute this computation
FIND was unable to find an engine to execute this computation
Triton Error [CUDA]: out of memory
CUDA driver error: out of memory
cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`
[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory
[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory"""
BROKEN = """\
CUDA error: an illegal memory access was encountered
CUDA error: device-side assert triggered
CUDA error: unspecified launch failure
CUDA error: uncorrectable ECC error encountered
CUDA error: no kernel image is available for execution on the device
CUDA error: too many resources requested for launch
CUDA error: CUDA-capable device(s) is/are busy or unavailable
CUDA error (flash_fwd_launch_template.h:188): invalid argument
CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`
CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa)`
cuDNN error: CUDNN_STATUS_INTERNAL_ERROR
cuDNN error: CUDNN_STATUS_EXECUTION_FAILED
cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph.
cuFFT error: CUFFT_INTERNAL_ERROR
cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnSgetrf`
NCCL error in: c10d/NCCLUtils.cpp:94, unhandled cuda error, NCCL version 2.27.5
NCCL Error 1: unhandled cuda error
ncclUnhandledCudaError: Call to CUDA function failed.
CUDA driver initialization failed, you might not have a CUDA gpu.
CUDA driver error: invalid argument
CUDA unknown error - this may be due to an incorrectly set up environment
No CUDA GPUs are available
Found no NVIDIA driver on your system.
Triton Error [CUDA]: an illegal memory access was encountered
out of resource: shared memory, Required: 232448, Hardware limit: 101376.
nvrtc: error: failed to open libnvrtc-builtins.so.12.1
HIP error: an illegal memory access was encountered
cuda runtime error (77) : an illegal memory access was encountered
miopenStatusUnknownError"""
NOT_THE_DEVICE = """\
Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu!
mat1 and mat2 shapes cannot be multiplied (77x768 and 1024x320)
"addmm_impl_cpu_" not implemented for 'Half'
Input type (torch.cuda.HalfTensor) and weight type (torch.FloatTensor) differ
Attempting to deserialize object on a CUDA device but is_available() is False."""


@pytest.mark.parametrize(
    ("texts", "trouble"),
    [
        (NO_MEMORY, Trouble.MEMORY),
        (BROKEN, Trouble.BROKEN),
        (NOT_THE_DEVICE, None),
    ],
    ids=["memory", "broken", "neither"],
)
def test_the_text_tells_what_is_wrong(texts: str, trouble: Trouble | None) -> None:
    wrong = {
        text: kind
        for text in texts.splitlines()
        if (kind := trouble_of(RuntimeError(text))) is not trouble
    }
    assert wrong == {}


def test_the_class_tells_it_where_there_is_one() -> None:
    assert trouble_of(torch.OutOfMemoryError("no text")) is Trouble.MEMORY
    assert trouble_of(MemoryError()) is Trouble.MEMORY
    assert trouble_of(torch.AcceleratorError("no text")) is Trouble.BROKEN


def test_an_error_is_found_behind_another_one() -> None:
    outer = RuntimeError("backend='inductor' raised")
    outer.__cause__ = RuntimeError("CUDA error: unspecified launch failure")
    assert trouble_of(outer) is Trouble.BROKEN


def test_words_of_a_job_are_not_taken_for_an_error() -> None:
    words = "CUDA error: out of memory"
    for error in (ValueError(words), KeyError(words), InvalidRequest("f", words, "")):
        assert trouble_of(error) is None


def test_room_is_what_is_free_and_what_torch_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other processes' memory is no room; the weights of this one are in the room."""
    cuda = torch.device("cuda")
    free_and_total = (6 * 2**30, 24 * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: free_and_total)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 3 * 2**30)
    assert device_room(Settings(device_memory_bytes=None), cuda) == 9 * 2**30
    assert device_room(Settings(device_memory_bytes=5), cuda) == 5
    assert device_room(Settings(), torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 2**30)
    assert spare_memory(cuda) == 8 * 2**30
    assert spare_memory(torch.device("cpu")) == 0


def test_a_cpu_answers() -> None:
    assert answers(torch.device("cpu"))


@pytest.mark.parametrize("is_broken", [True, False])
def test_a_cuda_device_is_asked(
    is_broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize(_device: torch.device) -> None:
        if is_broken:
            raise torch.AcceleratorError("CUDA error: unknown error")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert answers(torch.device("cuda")) is not is_broken
