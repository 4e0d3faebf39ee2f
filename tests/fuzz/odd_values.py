"""Values for a job's fields, from nearly right to absurd."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from animatediff import catalog
from animatediff.job.windows import FUSES, SCHEDULES
from animatediff.video import OUTPUT_FORMATS
from schemas import JobInput

Place = tuple[str | int, ...]
Job = dict[str, Any]

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAE"
    "lFTkSuQmCC"
)
"""A red PNG of one pixel."""
TEXT = st.text(st.characters(), max_size=20) | st.sampled_from(
    [
        "",
        "\0",
        "a\0b",
        "\ud800",
        "\udfff\ud800",
        "\u202e",
        "\ufeff",
        "́" * 50,
        "İſK",
        "😀" * 90,
        "x" * 5000,
        "{0}",
        "%s",
    ]
)
"""Text, including lone surrogates, which JSON can hold and UTF-8 cannot."""
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from(
        [
            0,
            1,
            7,
            63,
            64,
            65,
            -1,
            2**31,
            2**53,
            2**63,
            2**64 - 1,
            2**64,
            10**400,
            -0.0,
            1e308,
            5e-324,
            1e-9,
        ]
    )
)


@dataclass(frozen=True)
class Nested:
    """A placeholder for a value ``depth`` levels deep; ``built`` replaces it.

    Hypothesis cannot print such a value itself.
    """

    depth: int
    in_lists: bool


def built(value: Any) -> Any:
    """Return ``value`` with every placeholder replaced by the value it stands for."""
    if isinstance(value, dict):
        return {key: built(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [built(inner) for inner in value]
    if not isinstance(value, Nested):
        return value
    deep: Any = "bottom"
    for _ in range(value.depth):
        deep = [deep] if value.in_lists else {"a": deep}
    return deep


DEEP = st.builds(Nested, st.sampled_from([3, 50, 400, 900]), st.booleans())
"""Deep values. Python's JSON parser fails before a thousand levels."""
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | DEEP,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
    ),
    max_leaves=6,
)
MANY = st.builds(
    lambda n, value: [value] * n,
    st.sampled_from([9, 65, 1000]),
    NUMBERS | TEXT | st.just([{}]),
)
MANY_KEYS = st.builds(
    lambda n: {f"{i}": i for i in range(n)}, st.sampled_from([9, 1000])
)

_STARTS = [
    "",
    "/",
    "../../",
    "models/",
    "~/",
    "\\",
    "file://",
    "hf://",
    "hf:///",
    "hf://a/b/",
    "hf://a/../",
    "http://",
]
_STARTS += [
    "https://",
    "https://[",
    "https://u:p@h/",
    "https://127.0.0.1:99999/",
    "https://\u2100.example/",
    "//h/",
    "data:",
]
_MIDDLES = [
    "etc/passwd",
    "rgb",
    "shapeworld",
    "a/b",
    "x",
    "shapeworld_v3",
    "v3_sd15_mm",
    "v3_sd15_adapter",
    "a b",
    "..",
    ".",
    "",
]
_MIDDLES += [
    "h.example/x",
    "x" * 300,
    "%00",
    "?q=1",
    "owner/repo/file",
    "\u0131",
    "con",
    "a\tb",
    "x@main",
    "\u202egpj",
]
_ENDS = [
    "",
    ".safetensors",
    ".ckpt",
    ".SAFETENSORS",
    ".bin@main",
    ".bin@../..",
    ".bin@/",
    ".pt?x=.pt",
    ".png",
    ".gif",
]
_HASHES = [
    "",
    "#sha256=",
    "#sha256=" + "0" * 64,
    "#sha256=" + "g" * 64,
    "#md5=0",
    "#sha256=" + "0" * 64 + "\n",
]
REFERENCES = st.sampled_from(
    ["shapeworld", "shapeworld_v3", "rgb.safetensors", "models/rgb.safetensors"]
) | st.builds(
    lambda *parts: "".join(parts),
    st.sampled_from(_STARTS),
    st.sampled_from(_MIDDLES) | TEXT,
    st.sampled_from(_ENDS),
    st.sampled_from(_HASHES),
)
"""Names of existing files, and made-up names of missing ones."""
ODD = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    TEXT,
    REFERENCES,
    REFERENCES,
    JSON,
    MANY,
    MANY_KEYS,
)

LORA: Job = {"path": "loras/a.safetensors", "strength": 0.5, "ignore_file_alpha": True}
CONTROL: Job = {
    "path": "v3_sd15_sparsectrl_rgb.ckpt",
    "images": [PIXEL, "data:image/png;base64," + PIXEL],
    "frame_indices": [0, -1],
    "strength": 0.5,
    "start": 0.1,
    "end": 0.9,
    "normalize": True,
}
WHOLE: Job = {
    "prompt": "a red circle",
    "negative_prompt": "blue",
    "num_frames": 4,
    "width": 64,
    "height": 72,
    "num_inference_steps": 2,
    "guidance_scale": 2,
    "seed": 5,
    "scheduler": "euler",
    "fps": 8,
    "format": "gif",
    "clip_skip": 1,
    "context": {"length": 3, "overlap": 1, "stride": 2, "schedule": "uniform"},
    "loop": False,
    "model": "shapeworld",
    "motion_module": "shapeworld_v3",
    "motion_module_version": "v3",
    "dreambooth": "hf://owner/repo/file.safetensors@main",
    "vae": "https://h.example/vae.safetensors",
    "loras": [LORA, {"path": "v3_sd15_adapter.ckpt"}],
    "embeddings": [{"path": "embeddings/b.pt", "token": "<b>"}, {"path": "c.bin"}],
    "controls": [CONTROL],
}
PLAIN: Job = {
    name: value
    for name, value in WHOLE.items()
    if name not in ("dreambooth", "vae", "loras", "embeddings")
}
PLAIN.pop("controls")
VALID: list[Job] = [WHOLE, PLAIN, {"prompt": "a red circle"}]

CHANGES = ["odd", "odd", "odd", "copy", "remove", "add"]
ODD_REFERENCES = st.one_of(REFERENCES, REFERENCES, REFERENCES, ODD)
NAMES_FILES = ("path", "model", "motion_module", "dreambooth", "vae")


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Yield the place of every value inside ``value``."""
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*here, key)
        yield from places(inner, (*here, key))


def at(job: Any, place: Place) -> Any:
    for key in place:
        job = job[key]
    return job


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Job, list[Place]]:
    """Draw a valid job with up to three changes, and the changed places.

    A change replaces a value, copies one from another place, removes one or adds one.
    """
    job, touched = deepcopy(draw(st.sampled_from(VALID))), []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        *above, last = place = draw(st.sampled_from(list(places(job))[:200]))
        holder = at(job, tuple(above))
        way = draw(st.sampled_from(CHANGES))
        if way == "odd":
            is_reference = last in NAMES_FILES or "images" in above
            holder[last] = deepcopy(draw(ODD_REFERENCES if is_reference else ODD))
        elif way == "copy":
            source = draw(st.sampled_from(list(places(job))[:200]))
            holder[last] = deepcopy(at(job, source))
        elif way == "remove":
            del holder[last]
        elif isinstance(holder, dict):
            place = (*above, draw(TEXT))
            holder[place[-1]] = deepcopy(draw(ODD))
        else:
            holder.append(deepcopy(draw(ODD)))
        touched.append(tuple(place))
        if not job:
            break
    return job, touched


TINY = st.fixed_dictionaries(
    {
        "prompt": st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
            max_size=200,
        )
    },
    optional={
        "negative_prompt": st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
            max_size=100,
        ),
        "guidance_scale": st.floats(0, 30) | st.integers(0, 30),
        "seed": st.integers(0, 2**64 - 1),
        "scheduler": st.sampled_from(list(catalog.SCHEDULERS)),
        "fps": st.integers(1, 50),
        "format": st.sampled_from(list(OUTPUT_FORMATS)),
        "clip_skip": st.integers(0, 1),
        "context": st.fixed_dictionaries(
            {"overlap": st.integers(0, 1)},
            optional={
                "length": st.integers(2, 64),
                "stride": st.integers(1, 4),
                "schedule": st.sampled_from(list(SCHEDULES)),
                "fuse": st.sampled_from(list(FUSES)),
            },
        ),
    },
).map(
    lambda job: {
        **job,
        "num_frames": 1,
        "width": 64,
        "height": 64,
        "num_inference_steps": 1,
    }
)
"""Jobs that pass the schema and whose frames are computed quickly."""
RAW = st.one_of(
    JSON,
    MANY,
    MANY_KEYS,
    st.dictionaries(st.sampled_from([*JobInput.model_fields]), ODD, max_size=6),
    st.dictionaries(
        st.sampled_from([*JobInput.model_fields]) | TEXT, ODD, max_size=4
    ).map(lambda d: {"prompt": "a", **d}),
)
