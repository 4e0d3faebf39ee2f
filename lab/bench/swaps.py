"""Exchanging weights in a warm pipeline, beside what diffusers does instead."""

import gc
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from animatediff.checkpoints import diffusers_folder
from animatediff.checkpoints import files as weight_files
from animatediff.fetch.weight_file import WeightFile
from animatediff.pipeline import AnimationPipeline
from animatediff.published import load_weights
from lab.bench.figures import Row
from lab.bench.files import RandomFiles, files_of
from lab.bench.sizes import Run

BUILD, PUT, TAKE = "pipeline built anew", "LoRA loaded, fused", "LoRA unfused, unloaded"
OF_LORAS = {"kohya LoRA: on": PUT, "kohya LoRA: off": TAKE}
"""Swaps for which diffusers builds no pipeline, if peft is installed."""
PARTS = ("unet", "vae", "text_encoder")
PAGE_BYTES = 4096


class Measured(NamedTuple):
    """The time of one change of weights, and the bytes that it moves."""

    seconds: float
    read: int
    """Bytes of the files that are read."""
    written: int
    """Bytes of the weights that change."""
    held: int
    """Bytes that serve to undo the change."""


def measure_swaps(run: Run) -> Iterator[Row]:
    """Yield the time of each swap. Raises RuntimeError if a swap left a trace.

    Ours runs all swaps, then the peer builds its pipeline and takes the LoRA on and
    off, and so on.
    """
    files = files_of(run)
    with diffusers_folder.quiet():
        swaps = swaps_of(files)
        first, pipeline = _built(files, run)
        before = fingerprint(pipeline)
        ours: dict[str, list[Measured]] = {name: [] for name in swaps}
        peer: dict[str, list[Measured]] = {BUILD: [], PUT: [], TAKE: []}
        for _ in range(run.repeat):
            for name, arguments in swaps.items():
                swap = partial(load_weights, pipeline, **arguments)
                ours[name].append(measure(swap, pipeline)[0])
            for name, measured in _peer(files, run):
                peer[name].append(measured)
    yield Row(BUILD, "s", [first.seconds], [peer[BUILD][0].seconds])
    for name, values in ours.items():
        yield _row(name, values, peer)
    if fingerprint(pipeline) != before:
        raise RuntimeError("a swap left a trace: the weights are not those before")


def _row(
    name: str, values: Sequence[Measured], peer: Mapping[str, Sequence[Measured]]
) -> Row:
    other = OF_LORAS.get(name, BUILD)
    if not peer[other]:
        other = BUILD
    notes = {
        "MB read": values[-1].read / 1e6,
        "MB written": values[-1].written / 1e6,
        "MB kept": values[-1].held / 1e6,
    }
    seconds, others = ([each.seconds for each in v] for v in (values, peer[other]))
    return Row(f"swap, {name}", "s", seconds, others, counterpart=other, notes=notes)


def _weights(pipeline: Any) -> dict[tuple[str, str], Tensor]:
    """Return the weights of our pipeline or diffusers', by part and key."""
    if isinstance(pipeline, AnimationPipeline):
        models: dict[str, Any] = {**pipeline.models.parts}
    else:
        models = {part: getattr(pipeline, part) for part in PARTS}
    return {
        (part, key): tensor
        for part, model in models.items()
        for key, tensor in model.state_dict().items()
    }


def fingerprint(pipeline: Any) -> str:
    """Return a sha256 over every weight, in the order of the keys."""
    digest = hashlib.sha256()
    weights = _weights(pipeline)
    for key in sorted(weights):
        numbers = weights[key].cpu().contiguous().flatten()
        digest.update(numbers.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def measure(
    act: Callable[[], Any], pipeline: Any = None, folders: Sequence[Path] = ()
) -> tuple[Measured, Any]:
    """Measure ``act``, and return the numbers and the pipeline that it returns.

    ``act`` builds a pipeline from ``folders`` or changes ``pipeline``. A number of
    every page that changed is read: so the weights of a mapped file are in memory.
    """
    if pipeline is None:
        gc.collect()
    before = _states(pipeline)
    head = weight_files._head
    with patch.object(weight_files, "_head", wraps=head) as read:
        start = time.perf_counter()
        pipeline = act()
        after, weights = _states(pipeline), _weights(pipeline)
        changed = [weights[key] for key in weights if before.get(key) != after[key]]
        _touch(changed)
        _synchronize(pipeline)
        seconds = time.perf_counter() - start
    paths = {WeightFile.of(call.args[0]).path for call in read.call_args_list}
    for folder in folders:
        paths |= {*folder.rglob("*.safetensors")}
    measured = Measured(
        seconds=seconds,
        read=sum(path.stat().st_size for path in paths),
        written=sum(weight.nbytes for weight in changed),
        held=_held(pipeline),
    )
    return measured, pipeline


def _states(pipeline: Any) -> dict[tuple[str, str], tuple[int, int]]:
    """Return where each weight lies, and how often it was written to."""
    if pipeline is None:
        return {}
    weights = _weights(pipeline)
    return {key: (each.data_ptr(), each._version) for key, each in weights.items()}


def _touch(weights: Iterable[Tensor]) -> None:
    """Read one number of every page of each weight."""
    for weight in weights:
        pages = -(-weight.nbytes // PAGE_BYTES)
        stride = PAGE_BYTES // weight.itemsize
        weight.as_strided((pages,), (stride,), weight.storage_offset()).sum()


def _synchronize(pipeline: Any) -> None:
    if pipeline.unet.device.type == "cuda":
        torch.cuda.synchronize()


def _held(pipeline: Any) -> int:
    """Return the bytes on the host that serve to undo the changes."""
    if isinstance(pipeline, AnimationPipeline):
        return pipeline.weights.host_bytes
    return 0


def _peer(files: RandomFiles, run: Run) -> Iterator[tuple[str, Measured]]:
    """Measure diffusers: its pipeline built anew, a LoRA put on and taken off."""
    from lab.bench.peer import build as build_peer

    folders = [files.base, files.peer_motion]
    build = partial(build_peer, *folders, run.device, run.dtype)
    measured, pipeline = measure(build, folders=folders)
    yield BUILD, measured
    if find_spec("peft"):
        put = partial(_put_lora, pipeline, files.lora)
        yield PUT, measure(put, pipeline, [files.lora.parent])[0]
        yield TAKE, measure(partial(_take_lora, pipeline), pipeline)[0]


def _put_lora(pipeline: Any, path: Path) -> Any:
    pipeline.load_lora_weights(path)
    pipeline.fuse_lora(lora_scale=0.8)
    return pipeline


def _take_lora(pipeline: Any) -> Any:
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    return pipeline


def _built(files: RandomFiles, run: Run) -> tuple[Measured, AnimationPipeline]:
    """Measure our pipeline built anew, and return it."""
    base, motion = files.base, _motion_module(files, "v3")

    def build() -> AnimationPipeline:
        pipeline = AnimationPipeline.from_pretrained(
            base, device=run.device, dtype=run.dtype
        )
        return load_weights(pipeline, **motion)

    return measure(build, folders=[base])


def _motion_module(files: RandomFiles, version: str) -> dict[str, Any]:
    return {
        "motion_module_path": files.motion(version),
        "motion_module_version": version,
    }


def swaps_of(files: RandomFiles) -> dict[str, dict[str, Any]]:
    """Return the swaps in their order, each with the arguments of load_weights."""
    lora = {"lora_model_path": files.lora}
    dreambooth = {"dreambooth_model_path": files.dreambooth}
    camera = {"motion_module_lora_configs": [{"path": files.motion_lora}]}
    return {
        "kohya LoRA: on": lora,
        "kohya LoRA: off": {},
        "v3 domain adapter: on": {"adapter_lora_path": files.adapter},
        "v3 domain adapter: off": {},
        "motion module: v3 to v2": _motion_module(files, "v2"),
        "v2 MotionLoRA: on": camera,
        "v2 MotionLoRA: off": {},
        "motion module: v2 to v3": _motion_module(files, "v3"),
        "DreamBooth: on": dreambooth,
        "DreamBooth stays, LoRA: on": {**dreambooth, **lora},
        "DreamBooth stays, LoRA: off": dreambooth,
        "DreamBooth: off": {},
    }
