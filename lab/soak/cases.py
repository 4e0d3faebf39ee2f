"""The jobs of a soak, and the answer that each of them must get."""

import base64
import itertools
import random
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from safetensors.torch import save

from lab.hostile.hosts import WAYS
from lab.hostile.pickles import BOMBS, CONTAINERS, LARGE, RUNNING, in_dict, zipped
from lab.hostile.pictures import blank, repeated_scans
from lab.queue.workers import ROOT

Job = dict[str, Any]
OUTPUT = "output"
"""The answer of a job that must complete; all others are codes of errors."""
AGAIN = " (retryable)"
"""Follows the code of an error that may pass."""
BLOCK = 100
"""Jobs in which the shares of slow and hostile ones are exact."""
PROMPTS = ("a red circle, moving up", "a blue square, growing", "a green triangle")
INVALID = "INVALID_REQUEST"
MISSING = "ASSET_UNAVAILABLE"
MISMATCH = "CHECKPOINT_MISMATCH"
UNREACHED = MISSING + AGAIN
SMALL: Job = {"prompt": "a red circle", "num_frames": 4, "num_inference_steps": 4}
GOOD, PAGE = "style.safetensors", "page.safetensors"
FAMILY = ROOT / "models" / "shapeworld"


@dataclass(frozen=True)
class Case:
    """A job's input, its id if it is odd, and its ``answer``: OUTPUT or a code.

    ``kind`` is "plain", "slow" or "hostile".
    """

    kind: str
    name: str
    job: Any
    answer: str
    id: str | None = None


@dataclass(frozen=True)
class Places:
    """URLs of the host that speaks https."""

    host: str

    def of(self, way: str, name: str) -> str:
        """Return the URL of a file that is sent in this way; see ``WAYS``."""
        return f"{self.host}/{way}/{name}"


FIELDS: Mapping[str, Callable[[str], Job]] = {
    "loras": lambda path: {"loras": [{"path": path}]},
    "images": lambda path: {"controls": [_control([path])]},
    "embeddings": lambda path: {"embeddings": [{"path": path, "token": "red"}]},
    "dreambooth": lambda path: {"dreambooth": path},
    "motion_module": lambda path: {"motion_module": path},
    "vae": lambda path: {"vae": path},
}
"""Fields that name a file."""
SLOW_FIELDS = ("loras", "images", "embeddings")
WEIGHT_FIELDS = tuple(field for field in FIELDS if field != "images")
SLOW_WAYS = ("byte-a-second", "slow-headers", "stalled", "silent", "steady")
HUB = "hub"
"""A slow way of the library's own client."""


def _control(images: Sequence[str]) -> Job:
    path = "shapeworld/sparsectrl_rgb.safetensors"
    frames = [number % 4 for number in range(len(images))]
    return {"path": path, "images": list(images), "frame_indices": frames}


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@cache
def files() -> dict[str, bytes]:
    """Return the files of the host by name: one that is good, and hostile ones."""
    nan = {"x.lora_down.weight": torch.full((4, 4), float("nan"))}
    return {
        GOOD: (FAMILY / "style_lora.safetensors").read_bytes(),
        **{
            f"{name} in {container}.ckpt": pack(pickle)
            for container, pack in CONTAINERS.items()
            for name, pickle in BOMBS.items()
        },
        **{f"{name}.ckpt": zipped(in_dict(call)) for name, call in RUNNING.items()},
        **{
            f"many {name}.ckpt": zipped(pickle, zipfile.ZIP_DEFLATED)
            for name, (pickle, _) in LARGE.items()
        },
        "long header.safetensors": (2**62).to_bytes(8, "little") + b"{}",
        "no numbers.safetensors": save(nan),
        PAGE: b"<!doctype html><p>Sign in</p>",
    }


def plain(draw: random.Random, places: Places) -> Case:
    """Draw a job of half a second to a few, without a seed.

    Every fourth one takes a picture, and every fourth a LoRA from the host.
    """
    job: Job = {
        "prompt": draw.choice(PROMPTS),
        "num_frames": draw.choice((4, 4, 8, 16)),
        "num_inference_steps": draw.randint(4, 10),
        "format": draw.choice(("gif", "gif", "webp", "mp4")),
    }
    more = draw.randrange(4)
    if more == 0:
        job["controls"] = [_control([_encoded(blank(64, "PNG"))])]
    elif more == 1:
        lora = places.of("whole", GOOD)
        job["loras"] = [{"path": lora, "strength": 0.5}]
    names = ("plain", "with a picture", "with a LoRA")
    return Case("plain", names[(more == 0) + 2 * (more == 1)], job, OUTPUT)


def slow(number: int, places: Places) -> Iterator[Case]:
    """Yield a job for every slow way and field. ``number`` makes its URLs new."""
    for field in SLOW_FIELDS:
        for way in SLOW_WAYS:
            url = places.of(way, f"{field}-{number}.safetensors")
            answer = "TIMED_OUT" + AGAIN if way == "steady" else UNREACHED
            job = {**SMALL, **FIELDS[field](url)}
            yield Case("slow", f"{way}, {field}", job, answer)
    lora = f"hf://slow/host/file-{number}.safetensors"
    yield Case("slow", HUB, {**SMALL, **FIELDS["loras"](lora)}, UNREACHED)


def hostile(number: int, places: Places) -> Iterator[Case]:
    """Yield a job for every hostile input. ``number`` makes its ids new."""
    for name, job, answer in itertools.chain(
        _pictures(), _weights(number, places), _wrong_values(), _strange_places()
    ):
        yield Case("hostile", name, {**SMALL, **job}, answer)
    for name, whole in _NO_JOBS.items():
        yield Case("hostile", f"input: {name}", whole, INVALID)
    for odd in _ODD_IDS:
        yield Case("hostile", "odd id", SMALL, OUTPUT, f"{odd}{number}")
    for way in ("short", "round"):
        job = FIELDS["loras"](places.of(way, f"{number}.safetensors"))
        answer = UNREACHED if way == "short" else MISSING
        yield Case("hostile", f"{way} download", {**SMALL, **job}, answer)


_Row = tuple[str, Job, str]


@cache
def _pictures() -> list[_Row]:
    lists = {
        "a JPEG of 500 scans": [repeated_scans(4000, 500)],
        "32 pictures of 49 megapixels": [blank(7000, "PNG", "1")] * 32,
        "a picture of 81 megapixels": [blank(9000, "PNG")],
        "a damaged picture": [blank(64, "PNG")[:-30]],
        "no picture": [b"\0" * 1000],
    }
    return [
        (name, {"controls": [_control(list(map(_encoded, contents)))]}, INVALID)
        for name, contents in lists.items()
    ]


def _weights(number: int, places: Places) -> Iterator[_Row]:
    fields = itertools.cycle(WEIGHT_FIELDS)
    names = (name for name in files() if name != GOOD)
    for name, field in zip(names, fields, strict=False):
        url = places.of("whole", f"{name}?{number}".replace(" ", "%20"))
        answer = MISSING if name == PAGE else MISMATCH
        yield f"{name}, {field}", FIELDS[field](url), answer


_WRONG_VALUES: Mapping[str, Sequence[Any]] = {
    "prompt": (None, 5, "x" * 100_000, ["a"]),
    "num_frames": ("many", -1, 10**400, 1.5),
    "width": (513, 2**31, "64"),
    "seed": (2.5, "one", -1),
    "guidance_scale": ("NaN", True, {}),
    "format": ("exe", [], 1),
    "loras": ("a", [1], [{}] * 1000, {"path": "a"}),
    "controls": ([[[[]]]], [{"path": 1}]),
    "steps": (5,),
}
_NO_JOBS = {"null": None, "a list": [], "a text": "a", "empty": {}}
_ODD_IDS = ("..", "-rf ", "{job_id}", "日本", "'; drop ", "a\\b", ".env", "CON ")


def _wrong_values() -> Iterator[_Row]:
    for field, values in _WRONG_VALUES.items():
        for value in values:
            yield f"{field}: wrong value", {field: value}, INVALID


_STRANGE = (
    *("../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "~/.ssh/id_rsa"),
    *("hf://a/../../b", "http://127.0.0.1/x", "..", "models/../../x.safetensors"),
)


def _strange_places() -> Iterator[_Row]:
    for reference in _STRANGE:
        for field in ("loras", "images", "dreambooth"):
            yield f"{field}: {reference}", FIELDS[field](reference), INVALID


class Deck:
    """Deals cases. ``slow`` and ``hostile`` are their shares of the jobs in percent."""

    def __init__(
        self, draw: random.Random, places: Places, *, slow: float, hostile: float
    ) -> None:
        self._draw = draw
        self._places = places
        self._shares = {"slow": slow, "hostile": hostile}
        makers = {"slow": globals()["slow"], "hostile": globals()["hostile"]}
        self._sources = {kind: self._endless(makers[kind]) for kind in makers}

    def _endless(self, make: Callable[[int, Places], Iterator[Case]]) -> Iterator[Case]:
        """Yield all cases in a random order, then all again with other numbers."""
        for number in itertools.count():
            cases = list(make(number, self._places))
            yield from self._draw.sample(cases, len(cases))

    def block(self, jobs: int) -> list[Case]:
        """Return the next cases; slow ones come in the first half.

        A share above 0 gives one case at least.
        """
        counts = {
            kind: max(1, round(jobs * share / 100)) if share else 0
            for kind, share in self._shares.items()
        }
        rest = jobs - sum(counts.values())
        cases = [plain(self._draw, self._places) for _ in range(rest)]
        for kind, count in counts.items():
            last = jobs // 2 if kind == "slow" else jobs
            for case in itertools.islice(self._sources[kind], count):
                cases.insert(self._draw.randrange(last), case)
        return cases


assert {*SLOW_WAYS, "short", "round"} == set(WAYS)
