"""Adapters change weights by the equations of their papers.

Each equation is computed here number by number in float64, and again by peft.
"""

import importlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from animatediff.adapters.patcher import Change, WeightPatcher
from animatediff.checkpoints.detect import detect
from animatediff.checkpoints.lora import read_lora
from animatediff.errors import CheckpointError
from animatediff.families import SD15

OUT, IN, RANK, SIDE = 6, 4, 2, 3
LINEAR = "mid_block.attentions.0.transformer_blocks.0.ff.net.2"
CONV = "conv_in"
NORM = "conv_norm_out"
Numbers = Any
"""An array of numpy."""


def model() -> nn.Module:
    """Layers under names of the UNet: linear, convolution and norm, in float64."""
    torch.manual_seed(0)
    root = nn.Module()
    root.conv_in = nn.Conv2d(IN, OUT, SIDE)
    root.conv_norm_out = nn.GroupNorm(2, OUT)
    inner = nn.Module()
    attentions, block, feed = nn.Module(), nn.Module(), nn.Module()
    feed.net = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Linear(IN, OUT)])
    block.ff = feed
    attentions.transformer_blocks = nn.ModuleList([block])
    inner.attentions = nn.ModuleList([attentions])
    root.mid_block = inner
    return root.double()


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def kohya(layer: str) -> str:
    return "lora_unet_" + layer.replace(".", "_")


def patched(
    path: Path, root: nn.Module, strength: float = 1.0, **options: Any
) -> dict[str, Numbers]:
    """The weights of ``root`` with the file at ``path``; then the file is undone."""
    patcher = WeightPatcher({"unet": root})
    before = {key: tensor.clone() for key, tensor in root.state_dict().items()}
    lora = read_lora(path, SD15, patcher.shapes(), **options)
    assert lora.unmatched == ()
    patcher.apply({}, [Change(change, strength) for change in lora.changes])
    after = {key: tensor.numpy().copy() for key, tensor in root.state_dict().items()}
    patcher.restore()
    for key, tensor in root.state_dict().items():
        assert torch.equal(tensor, before[key])
    return after


def saved(folder: Path, tensors: Mapping[str, Tensor], **header: str) -> Path:
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(contiguous, folder / "x.safetensors", header)
    return folder / "x.safetensors"


Parts = dict[str, Tensor]
Equation = Callable[[Mapping[str, Numbers], Numbers, float], Numbers]
"""From a file's parts, the weight, and alpha / rank: the weight's change."""


def matmul(left: Numbers, right: Numbers) -> Numbers:
    right = right.reshape(len(right), -1)
    left = left.reshape(len(left), -1)
    result = np.zeros((len(left), right.shape[1]))
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            result[i, j] = sum(left[i, k] * right[k, j] for k in range(len(right)))
    return result


def with_core(core: Numbers, out: Numbers, inner: Numbers) -> Numbers:
    """``out`` (r, c_out), ``inner`` (r, c_in)."""
    result = np.zeros((out.shape[1], inner.shape[1], *core.shape[2:]))
    for o, i, y, x in np.ndindex(*result.shape):
        result[o, i, y, x] = sum(
            core[r, s, y, x] * out[r, o] * inner[s, i]
            for r, s in np.ndindex(RANK, RANK)
        )
    return result


def kronecker(first: Numbers, second: Numbers) -> Numbers:
    (a, b), (c, d, *rest) = first.shape, second.shape
    result = np.zeros((a * c, b * d, *rest))
    for i, j in np.ndindex(a * c, b * d):
        result[i, j] = first[i // c, j // d] * second[i % c, j % d]
    return result


def lora(p: Mapping[str, Numbers], weight: Numbers, scale: float) -> Numbers:
    del weight
    return scale * matmul(p["lora_up.weight"], p["lora_down.weight"])


def lora_with_core(p: Mapping[str, Numbers], weight: Numbers, scale: float) -> Numbers:
    del weight
    up = p["lora_up.weight"].reshape(OUT, RANK).T
    down = p["lora_down.weight"].reshape(RANK, IN)
    return scale * with_core(p["lora_mid.weight"], up, down)


def loha(p: Mapping[str, Numbers], weight: Numbers, scale: float) -> Numbers:
    del weight
    if "hada_t1" in p:
        first, second = (
            with_core(p[f"hada_t{i}"], p[f"hada_w{i}_a"], p[f"hada_w{i}_b"])
            for i in (1, 2)
        )
    else:
        first, second = (matmul(p[f"hada_w{i}_a"], p[f"hada_w{i}_b"]) for i in (1, 2))
    return scale * first * second


def lokr(p: Mapping[str, Numbers], weight: Numbers, scale: float) -> Numbers:
    first = p["lokr_w1"] if "lokr_w1" in p else matmul(p["lokr_w1_a"], p["lokr_w1_b"])
    if "lokr_w2" in p:
        second = p["lokr_w2"]
    elif "lokr_t2" in p:
        second = with_core(p["lokr_t2"], p["lokr_w2_a"], p["lokr_w2_b"])
    else:
        second = matmul(p["lokr_w2_a"], p["lokr_w2_b"])
        second = second.reshape(len(second), -1, *weight.shape[2:])
    whole = "lokr_w1" in p and "lokr_w2" in p
    return (1 if whole else scale) * kronecker(first, second)


def by_rows(p: Mapping[str, Numbers], weight: Numbers, scale: float) -> Numbers:
    del scale
    return p["weight"].reshape(-1, *(1 for _ in weight.shape[1:])) * weight


def by_columns(p: Mapping[str, Numbers], weight: Numbers, scale: float) -> Numbers:
    del scale
    return p["weight"].reshape(1, -1, *(1 for _ in weight.shape[2:])) * weight


def whole(p: Mapping[str, Numbers], weight: Numbers, scale: float) -> Numbers:
    del weight, scale
    return p["diff"]


def dora(change: Equation, axis: int) -> Equation:
    """Every row (0) or column (1) of W + change gets the length of ``dora_scale``."""

    def decomposed(p: Mapping[str, Numbers], weight: Numbers, scale: float) -> Numbers:
        turned = weight + change(p, weight, scale).reshape(weight.shape)
        result = np.zeros_like(turned)
        lengths = p["dora_scale"].flatten()
        for i in range(weight.shape[axis]):
            place = (i,) if axis == 0 else (slice(None), i)
            result[place] = (
                lengths[i] * turned[place] / np.sqrt((turned[place] ** 2).sum())
            )
        return result - weight

    return decomposed


DOWN, UP = "lora_down.weight", "lora_up.weight"


def factors(name: str, rows: int, columns: int, *rest: int) -> Parts:
    return {
        f"{name}_a": numbers(rows, RANK),
        f"{name}_b": numbers(RANK, columns, *rest),
    }


CASES: dict[str, tuple[str, str, Callable[[], Parts], Equation]] = {
    # name: kind, layer, parts of the file, equation
    "LoRA": (
        "LoRA",
        LINEAR,
        lambda: {DOWN: numbers(RANK, IN), UP: numbers(OUT, RANK)},
        lora,
    ),
    "LoCon": (
        "LoRA",
        CONV,
        lambda: {DOWN: numbers(RANK, IN, 3, 3), UP: numbers(OUT, RANK, 1, 1)},
        lora,
    ),
    "LoCon with a core": (
        "LoRA",
        CONV,
        lambda: {
            DOWN: numbers(RANK, IN, 1, 1),
            "lora_mid.weight": numbers(RANK, RANK, 3, 3),
            UP: numbers(OUT, RANK, 1, 1),
        },
        lora_with_core,
    ),
    "LoHa": (
        "LoHa",
        LINEAR,
        lambda: factors("hada_w1", OUT, IN) | factors("hada_w2", OUT, IN),
        loha,
    ),
    "LoHa of a convolution": (
        "LoHa",
        CONV,
        lambda: factors("hada_w1", OUT, IN * 9) | factors("hada_w2", OUT, IN * 9),
        loha,
    ),
    "LoHa with cores": (
        "LoHa",
        CONV,
        lambda: {
            f"hada_{name}": numbers(RANK, *shape)
            for i in "12"
            for name, shape in {
                f"t{i}": (RANK, 3, 3),
                f"w{i}_a": (OUT,),
                f"w{i}_b": (IN,),
            }.items()
        },
        loha,
    ),
    "LoKr, whole": (
        "LoKr",
        LINEAR,
        lambda: {"lokr_w1": numbers(3, 2), "lokr_w2": numbers(2, 2)},
        lokr,
    ),
    "LoKr": (
        "LoKr",
        LINEAR,
        lambda: {"lokr_w1": numbers(3, 2), **factors("lokr_w2", 2, 2)},
        lokr,
    ),
    "LoKr, first in two": (
        "LoKr",
        LINEAR,
        lambda: {**factors("lokr_w1", 3, 2), "lokr_w2": numbers(2, 2)},
        lokr,
    ),
    "LoKr, both in two": (
        "LoKr",
        LINEAR,
        lambda: factors("lokr_w1", 3, 2) | factors("lokr_w2", 2, 2),
        lokr,
    ),
    "LoKr of a convolution, whole": (
        "LoKr",
        CONV,
        lambda: {"lokr_w1": numbers(3, 2), "lokr_w2": numbers(2, 2, 3, 3)},
        lokr,
    ),
    "LoKr of a convolution": (
        "LoKr",
        CONV,
        lambda: {"lokr_w1": numbers(3, 2), **factors("lokr_w2", 2, 2 * 9)},
        lokr,
    ),
    "LoKr of a convolution, 4 axes": (
        "LoKr",
        CONV,
        lambda: {"lokr_w1": numbers(3, 2), **factors("lokr_w2", 2, 2, 3, 3)},
        lokr,
    ),
    "LoKr with a core": (
        "LoKr",
        CONV,
        lambda: {
            "lokr_w1": numbers(3, 2),
            "lokr_t2": numbers(RANK, RANK, 3, 3),
            "lokr_w2_a": numbers(RANK, 2),
            "lokr_w2_b": numbers(RANK, 2),
        },
        lokr,
    ),
    "IA3": (
        "IA3",
        LINEAR,
        lambda: {"weight": numbers(OUT), "on_input": torch.tensor(0)},
        by_rows,
    ),
    "IA3 on input": (
        "IA3",
        LINEAR,
        lambda: {"weight": numbers(IN), "on_input": torch.tensor(1)},
        by_columns,
    ),
    "IA3 of a convolution": (
        "IA3",
        CONV,
        lambda: {"weight": numbers(1, OUT, 1, 1), "on_input": torch.tensor(False)},
        by_rows,
    ),
    "IA3 of a convolution, on input": (
        "IA3",
        CONV,
        lambda: {"weight": numbers(1, IN, 1, 1), "on_input": torch.tensor(True)},
        by_columns,
    ),
    "difference": (
        "full difference",
        LINEAR,
        lambda: {"diff": numbers(OUT, IN)},
        whole,
    ),
    "difference of a convolution": (
        "full difference",
        CONV,
        lambda: {"diff": numbers(OUT, IN, 3, 3)},
        whole,
    ),
    "difference of a norm": (
        "full difference",
        NORM,
        lambda: {"diff": numbers(OUT)},
        whole,
    ),
}
for _name in ("LoRA", "LoCon", "LoCon with a core", "LoHa", "LoKr", "LoKr with a core"):
    _kind, _layer, _parts, _equation = CASES[_name]
    _rest = (1,) if _layer == LINEAR else (1, 1, 1)
    for _axis, _shape in ((0, (OUT, *_rest)), (1, (1, IN, *_rest[1:]))):
        CASES[f"{_name}, decomposed by {'row' if _axis == 0 else 'column'}"] = (
            "DoRA" if _kind == "LoRA" else f"{_kind} with DoRA",
            _layer,
            lambda parts=_parts, shape=_shape: {
                **parts(),
                "dora_scale": numbers(*shape).abs(),
            },
            dora(_equation, _axis),
        )


@pytest.mark.parametrize("name", CASES)
def test_equations(name: str, tmp_path: Path) -> None:
    kind, layer, make_parts, equation = CASES[name]
    root = model()
    before = {key: tensor.numpy().copy() for key, tensor in root.state_dict().items()}
    parts = make_parts()
    alpha = {"alpha": torch.tensor(3.0)}
    file = {f"{kohya(layer)}.{part}": t for part, t in (parts | alpha).items()}
    path = saved(tmp_path, file)
    assert (detect(file).kind, detect(file).version) == (kind, "kohya")
    weight = f"{layer}.weight"
    exact = {part: tensor.numpy() for part, tensor in parts.items()}
    for strength, scale, options in (
        (1.0, 1.5, {}),
        (-0.5, 1.5, {}),
        (2.0, 1.0, {"ignore_file_alpha": True}),
    ):
        change = equation(exact, before[weight], scale).reshape(before[weight].shape)
        after = patched(path, root, strength, **options)
        assert np.abs(change).max() > 0.1
        assert np.allclose(
            after[weight], before[weight] + strength * change, rtol=1e-12, atol=1e-12
        )
        for key in before.keys() - {weight}:
            assert np.array_equal(after[key], before[key])


@pytest.mark.parametrize(
    ("parts", "layer", "changes"),
    [
        ({"w_norm": OUT, "b_norm": OUT}, NORM, {"weight": "w_norm", "bias": "b_norm"}),
        ({"diff": OUT, "diff_b": OUT}, NORM, {"weight": "diff", "bias": "diff_b"}),
        ({"diff_b": OUT}, LINEAR, {"bias": "diff_b"}),
        ({"b_norm": OUT}, NORM, {"bias": "b_norm"}),
    ],
)
def test_norms_and_biases(
    parts: dict[str, int], layer: str, changes: dict[str, str], tmp_path: Path
) -> None:
    root = model()
    tensors = {part: numbers(size) for part, size in parts.items()}
    path = saved(tmp_path, {f"{kohya(layer)}.{p}": t for p, t in tensors.items()})
    after = patched(path, root, 0.5)
    for key, tensor in root.state_dict().items():
        local_key = key.removeprefix(f"{layer}.")
        change = tensors[changes[local_key]] if local_key in changes else torch.zeros(1)
        assert np.allclose(after[key], (tensor + 0.5 * change).numpy(), rtol=1e-14)


def test_a_bias_beside_matrices_has_their_scale(tmp_path: Path) -> None:
    root = model()
    bias = numbers(OUT)
    file = {
        f"unet.{LINEAR}.lora_A.weight": numbers(RANK, IN),
        f"unet.{LINEAR}.lora_B.weight": numbers(OUT, RANK),
        f"unet.{LINEAR}.lora_B.bias": bias,
        f"unet.{LINEAR}.alpha": torch.tensor(6.0),
    }
    after = patched(saved(tmp_path, file), root, 0.5)
    expected = root.get_parameter(f"{LINEAR}.bias") + 0.5 * 3 * bias
    assert np.allclose(after[f"{LINEAR}.bias"], expected.detach().numpy(), rtol=1e-14)


def test_vectors_of_zeros_are_no_division_by_zero(tmp_path: Path) -> None:
    root = model()
    nn.init.zeros_(root.get_parameter(f"{LINEAR}.weight"))
    file = {
        f"{kohya(LINEAR)}.{part}": tensor
        for part, tensor in {
            DOWN: torch.zeros(RANK, IN),
            UP: torch.zeros(OUT, RANK),
            "dora_scale": torch.ones(OUT, 1),
        }.items()
    }
    assert not patched(saved(tmp_path, file), root)[f"{LINEAR}.weight"].any()


MISFITS: dict[str, dict[str, Tensor]] = {
    "transposed": {DOWN: numbers(RANK, OUT), UP: numbers(IN, RANK)},
    "ranks differ": {DOWN: numbers(RANK, IN), UP: numbers(OUT, RANK + 1)},
    "vectors": {DOWN: numbers(IN), UP: numbers(OUT)},
    "numbers": {DOWN: torch.tensor(1.0), UP: torch.tensor(1.0)},
    "Kronecker": {"lokr_w1": numbers(3, 2), "lokr_w2": numbers(2, 3)},
    "difference": {"diff": numbers(IN, OUT)},
    "magnitude": {
        DOWN: numbers(RANK, IN),
        UP: numbers(OUT, RANK),
        "dora_scale": numbers(OUT + 1, 1),
    },
    "factors": {"weight": numbers(IN), "on_input": torch.tensor(0)},
    "bias": {"diff_b": numbers(IN)},
    "middle": {
        DOWN: numbers(RANK, IN),
        UP: numbers(OUT, RANK),
        "lora_mid.weight": numbers(RANK, RANK, 3, 3),
    },
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfits_are_refused(name: str, tmp_path: Path) -> None:
    file = {f"{kohya(LINEAR)}.{part}": t for part, t in MISFITS[name].items()}
    shapes = WeightPatcher({"unet": model()}).shapes()
    with pytest.raises(CheckpointError, match=r"x\.safetensors does not fit this mod"):
        read_lora(saved(tmp_path, file), SD15, shapes)


OTHERS = {
    "OFT": {"oft_diag": (2, 3, 3)},
    "OFT or BOFT": {"oft_blocks": (2, 3, 3)},
    "BOFT": {"boft_R": (2, 3, 3), "boft_s": (OUT, 1)},
    "GLoRA": {f"{name}.weight": (4, 4) for name in ("a1", "a2", "b1", "b2")},
    "AdaLoRA": {"lora_A": (2, 4), "lora_B": (6, 2), "lora_E": (2, 1)},
    "VeRA": {"vera_lambda_b": (6,), "vera_lambda_d": (2,)},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_cannot_run_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    """Even beside a layer that could."""
    plain = {DOWN: numbers(RANK, IN, 3, 3), UP: numbers(OUT, RANK, 1, 1)}
    file = {f"{kohya(CONV)}.{part}": tensor for part, tensor in plain.items()}
    file |= {f"{kohya(LINEAR)}.{part}": numbers(*s) for part, s in OTHERS[kind].items()}
    assert detect(file).kind == kind
    shapes = WeightPatcher({"unet": model()}).shapes()
    with pytest.raises(CheckpointError, match=f"is {kind}, which is not supported"):
        read_lora(saved(tmp_path, file), SD15, shapes)


def test_factors_of_a_square_convolution_are_ambiguous(tmp_path: Path) -> None:
    shapes = {("unet", "conv_in.weight"): torch.Size((4, 4, 3, 3))}
    file = {"base_model.model.conv_in.ia3_l": torch.ones(1, 4, 1, 1)}
    with pytest.raises(CheckpointError, match="may be of its input or output"):
        read_lora(saved(tmp_path, file), SD15, shapes)


PART_NAMES = (
    *("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale"),
    *(f"hada_w{i}_{side}" for i in "12" for side in "ab"),
    *("hada_t1", "hada_t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2"),
    *("lokr_w2_a", "lokr_w2_b", "lokr_t2", "lokr_t1", "diff", "diff_b", "w_norm"),
    *("b_norm", "weight", "on_input", "ia3_l", "lora_magnitude_vector"),
    *("lora_B.bias", "oft_blocks", "unknown"),
)
WHOLE = [list(make_parts()) for _, _, make_parts, _ in CASES.values()]
DTYPES = (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_any_parts_are_run_or_refused(data: st.DataObject) -> None:
    """No combination of parts, shapes and types ends in another error."""
    layer = data.draw(st.sampled_from((LINEAR, CONV, NORM)))
    some = st.lists(st.sampled_from(PART_NAMES), min_size=1, unique=True)
    names = data.draw(st.one_of(st.sampled_from(WHOLE), some))
    shapes = st.lists(st.sampled_from((0, 1, RANK, 3, IN, OUT)), max_size=4)
    root = model()
    patcher = WeightPatcher({"unet": root})
    with tempfile.TemporaryDirectory() as folder:
        file = {
            f"{kohya(layer)}.{name}": torch.ones(
                data.draw(shapes), dtype=data.draw(st.sampled_from(DTYPES))
            )
            for name in names
        }
        try:
            read = read_lora(saved(Path(folder), file), SD15, patcher.shapes())
        except CheckpointError:
            return
    patcher.apply({}, [Change(change, 0.5) for change in read.changes])
    assert all(tensor.isfinite().all() for tensor in root.state_dict().values())


PEFT = {
    "LoRA": ("LoraConfig", {"r": RANK, "lora_alpha": 3}),
    "LoRA, rooted": ("LoraConfig", {"r": RANK, "lora_alpha": 3, "use_rslora": True}),
    "DoRA": ("LoraConfig", {"r": RANK, "lora_alpha": 3, "use_dora": True}),
    "LoHa": ("LoHaConfig", {"r": RANK, "alpha": RANK}),
    "LoHa with cores": (
        "LoHaConfig",
        {"r": RANK, "alpha": RANK, "use_effective_conv2d": True},
    ),
    "LoKr": ("LoKrConfig", {"r": 1, "alpha": 1}),
    "LoKr with a core": (
        "LoKrConfig",
        {"r": 1, "alpha": 1, "use_effective_conv2d": True, "decompose_both": True},
    ),
    "IA3": ("IA3Config", {"feedforward_modules": ["2"]}),
    "IA3 on outputs": ("IA3Config", {"feedforward_modules": []}),
}
"""Configs of peft, whose alpha is in the header where it is not the rank."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PEFT)
def test_files_of_peft_do_what_peft_does(name: str, tmp_path: Path) -> None:
    peft = importlib.import_module("peft")
    class_name, settings = PEFT[name]
    config = getattr(peft, class_name)(target_modules=["conv_in", "2"], **settings)
    root = model()
    wrapped = peft.get_peft_model(model(), config)
    for key, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter.data)
            if "magnitude" in key:
                parameter.data.abs_()
    file = peft.get_peft_model_state_dict(wrapped)
    path = saved(tmp_path, file, lora_adapter_metadata=json.dumps(settings))
    assert detect(file).kind == name.split()[0].strip(",")
    merged = wrapped.merge_and_unload().state_dict()
    after = patched(path, root)
    changed = {f"{layer}.weight" for layer in (LINEAR, CONV)}
    for key, tensor in root.state_dict().items():
        assert np.allclose(after[key], merged[key].numpy(), rtol=1e-6, atol=1e-6)
        assert key not in changed or not np.array_equal(after[key], tensor.numpy())
