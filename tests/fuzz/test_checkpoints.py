"""Damaged and odd weight files, in every field that names a file."""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor

from lab.hostile.pickles import CONTAINERS
from tests.fuzz.odd_bytes import damaged, with_odd_header
from tests.fuzz.service import SMALLEST, Service, share
from tests.fuzz.weight_files import (
    FIELDS,
    KINDS,
    Weights,
    good_file,
    hostile_pickles,
    packed,
    weights,
)

pytestmark = [  # PyTorch's warnings when odd tensors are created and read
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
    pytest.mark.filterwarnings("ignore:Casting complex values"),
    pytest.mark.filterwarnings("ignore:Sparse"),
    pytest.mark.filterwarnings("ignore:.*quantiz"),
    pytest.mark.filterwarnings("ignore:TypedStorage"),
]
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin")
NAMES = count()
DTYPES = (
    torch.int8,
    torch.int64,
    torch.bool,
    torch.float64,
    torch.bfloat16,
    torch.complex64,
    torch.float8_e4m3fn,
)
ODD_TENSORS: Mapping[str, Callable[[Tensor], Any]] = {
    **{str(dtype): lambda t, dtype=dtype: t.to(dtype) for dtype in DTYPES},
    "raw bytes": lambda t: t.reshape(-1)[:1].view(torch.uint8),
    "flat": lambda t: t.reshape(-1),
    "transposed": lambda t: t.mT.contiguous() if t.ndim > 1 else t,
    "one more axis": lambda t: t[None],
    "scalar": lambda t: t.reshape(-1)[0].clone(),
    "empty": lambda t: t[:0].clone() if t.ndim else t,
    "NaN": lambda t: torch.full_like(t, float("nan")),
    "infinite": lambda t: torch.full_like(t, float("-inf")),
    "huge": lambda t: torch.full_like(t, 3e4),
    "zeros": torch.zeros_like,
    "sparse": lambda t: t.float().to_sparse(),
    "on the meta device": lambda t: t.to("meta"),
    "expanded": lambda t: torch.zeros((), dtype=t.dtype).expand(t.shape),
    "a billion rows": lambda t: torch.zeros((), dtype=t.dtype).expand(
        10**9, *t.shape[1:]
    ),
    "with gradient": lambda t: t.float().detach().requires_grad_(),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "parameter": lambda t: torch.nn.Parameter(t.float()),
    "text": lambda _t: "text",
    "None": lambda _t: None,
    "mapping": lambda t: {"weight": t},
}
ODD_NAMES: Mapping[str, Callable[[Any], Any]] = {
    "renamed": lambda key: f"{key}x",
    "repeated": lambda key: f"module.{key}",
    "unprintable": lambda key: f"\ud800{key}",
    "long": lambda key: f"{key}{'x' * 20_000}",
    "numbered": lambda key: len(str(key)),
    "removed": lambda _key: None,
}


def _is_plain(value: Any) -> bool:
    """Whether ``value`` is a tensor that has not been changed yet."""
    dense = (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_meta
    )
    return dense and value.dtype is torch.float16


@st.composite
def odd_tables(draw: st.DrawFn, kind: str) -> Weights:
    """Draw a valid file's table with some tensors changed, renamed or removed."""
    table = dict(weights(kind))
    inner = table.get("string_to_param", table)
    for _ in range(draw(st.integers(1, 2))):
        keys = [key for key, value in inner.items() if _is_plain(value)]
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        chosen = draw(
            st.sampled_from(
                [
                    [key],
                    [key],
                    keys,
                    [k for k in keys if str(k).endswith(str(key)[-11:])],
                ]
            )
        )
        way = draw(st.sampled_from([*ODD_TENSORS, *ODD_NAMES, "below"]))
        if way in ODD_TENSORS:
            new = {k: ODD_TENSORS[way](inner[k]) for k in chosen}
        elif way == "below":
            table = {
                draw(
                    st.sampled_from(
                        ["state_dict", "controlnet", "string_to_param", "x"]
                    )
                ): table
            }
            break
        else:
            new = {ODD_NAMES[way](k): inner[k] for k in chosen}
            new.pop(None, None)
        kept = {k: v for k, v in inner.items() if k not in chosen or way == "repeated"}
        inner = {**kept, **new}
        table = (
            {**table, "string_to_param": inner} if "string_to_param" in table else inner
        )
    return table


def _file(table: Weights, suffix: str) -> tuple[str, bytes]:
    """A suffix and content: a pickle where a safetensors file cannot hold ``table``."""
    try:
        return suffix, packed(table, suffix)
    except (
        SafetensorError,
        ValueError,
        TypeError,
        RuntimeError,
        AttributeError,
        KeyError,
    ):
        return ".ckpt", packed(table, ".ckpt")


@st.composite
def bad_files(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Draw a field of a job, and a file's suffix and content for it."""
    kind = draw(st.sampled_from(list(KINDS)))
    simple = kind != "inversion of AUTOMATIC1111"
    suffix = draw(st.sampled_from(SUFFIXES if simple else SUFFIXES[1:]))
    way = draw(
        st.sampled_from(
            [
                *("damaged", "damaged", "odd header", "odd table", "odd table"),
                *("unchanged", "hostile pickle"),
            ]
        )
    )
    if way == "hostile pickle":
        pack = CONTAINERS[draw(st.sampled_from(list(CONTAINERS)))]
        content = pack(draw(hostile_pickles()))
    elif way == "odd table":
        suffix, content = _file(draw(odd_tables(kind)), suffix)
    elif way == "odd header" and simple:
        suffix = ".safetensors"
        content = draw(with_odd_header(good_file(kind, suffix)))
    else:
        content = good_file(kind, suffix)
        if way != "unchanged":
            content = draw(
                damaged(
                    content, good_file(draw(st.sampled_from(list(KINDS)[3:6])), ".ckpt")
                )
            )
    field = draw(st.sampled_from([KINDS[kind]] * 20 + list(FIELDS)))
    return field, suffix, content


@share(0.16)
@given(bad_files())
def test_a_weight_file_is_used_or_refused(
    service: Service, bad: tuple[str, str, bytes]
) -> None:
    field, suffix, content = bad
    # The name is new each time, because the last file may still be mapped into memory.
    name = f"bad{next(NAMES)}{suffix}"
    path = service.models / name
    path.write_bytes(content)
    try:
        answer = service.send(
            field, {"id": "job", "input": {**SMALLEST, **FIELDS[field](name)}}
        )
    finally:
        path.unlink()
    if answer.get("code") == "CHECKPOINT_MISMATCH":
        assert name in answer["message"]


def test_a_normal_job_still_gives_the_same_frames(service: Service) -> None:
    service.check_frames()
