import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from animatediff.errors import InvalidRequest
from animatediff.job.clip import (
    ContextWindows,
    ControlFile,
    EmbeddingFile,
    GenerationRequest,
    LoraFile,
    PreviewRequest,
)
from schemas import JobInput, parse_job_input
from schemas.generate import schema_texts

ROOT = Path(__file__).parent.parent


def test_schema_files_are_up_to_date() -> None:
    for path, text in schema_texts().items():
        assert path.read_text(encoding="utf-8") == text, "run make schemas"
    assert len(schema_texts()) == 5


def test_test_input_is_a_job() -> None:
    job = json.loads((ROOT / "test_input.json").read_text())
    assert parse_job_input(job["input"]).prompt


def test_nested_and_plain_fields_reach_the_request() -> None:
    job = {
        "prompt": "p",
        "negative_prompt": "n",
        "num_frames": 8,
        "width": 64,
        "height": 72,
        "num_inference_steps": 5,
        "guidance_scale": 2,
        "seed": 2**64 - 1,
        "scheduler": "euler",
        "fps": 12,
        "format": "gif",
        "clip_skip": 1,
        "context": {
            "length": 12,
            "overlap": 3,
            "stride": 2,
            "schedule": "looped",
            "fuse": "flat",
            "noise": "repeated",
        },
        "loop": True,
        "file_metadata": "none",
        "preview": {"every": 2, "max_bytes": 5000},
        "model": "shapeworld",
        "motion_module": "shapeworld_v3",
        "motion_module_version": "v3",
        "dreambooth": "hf://owner/repo/file.safetensors@main",
        "vae": "https://example.org/vae.safetensors",
        "loras": [
            {"path": "loras/a.safetensors", "strength": 0.5, "ignore_file_alpha": True}
        ],
        "embeddings": [{"path": "embeddings/b.pt", "token": "<b>"}],
        "controls": [
            {
                "path": "v3_sd15_sparsectrl_rgb.ckpt",
                "images": ["a.png", "b.png"],
                "frame_indices": [0, -1],
                "strength": 0.5,
                "start": 0.1,
                "end": 0.9,
                "normalize": True,
            }
        ],
    }
    request = dict(parse_job_input(job))
    lora = LoraFile(path="loras/a.safetensors", strength=0.5, ignore_file_alpha=True)
    assert request.pop("loras") == (lora,)
    embedding = EmbeddingFile(path="embeddings/b.pt", token="<b>")
    assert request.pop("embeddings") == (embedding,)
    control = ControlFile(
        path="v3_sd15_sparsectrl_rgb.ckpt",
        images=("a.png", "b.png"),
        frame_indices=(0, -1),
        strength=0.5,
        start=0.1,
        end=0.9,
        normalize=True,
    )
    assert request.pop("controls") == (control,)
    assert request.pop("context") == ContextWindows(
        length=12, overlap=3, stride=2, schedule="looped", fuse="flat", noise="repeated"
    )
    assert request.pop("preview") == PreviewRequest(every=2, max_bytes=5000)
    plain = {name: value for name, value in job.items() if name in request}
    assert {name: request[name] for name in plain} == plain


@pytest.mark.parametrize(
    ("changes", "field", "allowed"),
    [
        (
            {"promt": "x"},
            "promt",
            "no such field; did you mean prompt? there are",
        ),
        ({"loras": "a.ckpt"}, "loras", "a list of at most 8 items"),
        ({"loras": ["a.ckpt"]}, "loras.0", "an object with path, strength"),
        (
            {"loras": [{"path": "a.ckpt", "weight": 1.0}]},
            "loras.0.weight",
            "no such field; there are path, strength",
        ),
        ({"loras": [{"path": "a.ckpt"}] * 9}, "loras", "at most 8"),
        (
            {"loras": [{"path": "a.ckpt", "strength": float("nan")}]},
            "loras.0.strength",
            "finite",
        ),
        ({"prompt": None}, "prompt", "text of at most 4000 characters"),
        ({"prompt": "x" * 100_000}, "prompt", "4000"),
        ({"prompt": "a\0b"}, "prompt", "without NUL"),
        ({"num_frames": 0}, "num_frames", "an integer from 1 to 4096"),
        ({"num_frames": 16.0}, "num_frames", "an integer from 1 to 4096"),
        ({"num_frames": True}, "num_frames", "an integer from 1 to 4096"),
        ({"num_frames": "16"}, "num_frames", "an integer from 1 to 4096"),
        ({"width": 513}, "width", "a multiple of 8"),
        ({"width": 10**9}, "width", "an integer from 64 to 2048"),
        ({"height": 56}, "height", "an integer from 64 to 2048, a multiple of 8"),
        ({"guidance_scale": float("nan")}, "guidance_scale", "a finite number"),
        ({"guidance_scale": float("inf")}, "guidance_scale", "a finite number"),
        ({"guidance_scale": -1.0}, "guidance_scale", "a finite number from 0 to 30"),
        ({"seed": 2**64}, "seed", "from 0 to 18446744073709551615"),
        ({"seed": -1}, "seed", "an integer from 0 to 18446744073709551615"),
        ({"scheduler": "dpm"}, "scheduler", "one of ddim, euler"),
        ({"format": "avi"}, "format", "one of mp4, gif"),
        ({"fps": 0}, "fps", "an integer from 1 to 60"),
    ],
)
def test_wrong_field_is_named(
    changes: dict[str, Any], field: str, allowed: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job_input({"prompt": "a cat", **changes})
    details = caught.value.details
    assert details["field"] == field
    assert allowed in details["allowed"]
    assert len(caught.value.message) < 1000
    json.dumps(caught.value.to_dict(), allow_nan=False)


@pytest.mark.parametrize("raw", [None, [], "a cat", 3])
def test_input_that_is_no_object(raw: object) -> None:
    with pytest.raises(InvalidRequest, match="input: .*an object"):
        parse_job_input(raw)


def test_missing_prompt() -> None:
    with pytest.raises(InvalidRequest, match="prompt: .*needed"):
        parse_job_input({})


def test_all_wrong_fields_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job_input({"prompt": "a", "width": 513, "num_frames": 0})
    fields = {
        caught.value.details["field"],
        *(p["field"] for p in caught.value.details["problems"]),
    }
    assert fields == {"width", "num_frames"}


@pytest.mark.parametrize(
    "wrong", [{f"{i}": i for i in range(5000)}, {"x" * 100_000: 1}, {"loras": [[]] * 8}]
)
def test_an_answer_does_not_grow_with_what_is_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job_input({"prompt": "a", **wrong})
    assert len(json.dumps(caught.value.to_dict())) < 20_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = st.sampled_from([*JobInput.model_fields, "unknown"])


@pytest.mark.slow
@given(st.dictionaries(FIELDS, JSON, max_size=5) | JSON)
def test_any_json_is_a_request_or_an_invalid_request(raw: Any) -> None:
    try:
        answer: GenerationRequest | InvalidRequest = parse_job_input(raw)
    except InvalidRequest as refusal:
        answer = refusal
    if isinstance(answer, InvalidRequest):
        json.dumps(answer.to_dict(), allow_nan=False)
        assert answer.details["field"]
        assert len(answer.message) < 2000
    else:
        assert isinstance(answer.prompt, str)


def documented_jobs() -> list[dict]:
    """Every JSON block of docs/jobs.md that is a request."""
    texts = [(ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")]
    blocks = [
        block
        for text in texts
        for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    ]
    return [json.loads(block) for block in blocks if block.startswith('{"input"')]


def test_documented_jobs_are_jobs_and_show_every_nested_field() -> None:
    jobs = documented_jobs()
    assert len(jobs) >= 13
    named = {field for job in jobs for field in job["input"]}
    for job in jobs:
        parse_job_input(job["input"])
    lacking = {name for name in JobInput.model_fields if _holds_objects(name)} - named
    assert lacking == set(), f"docs/jobs.md: add a job that shows {lacking}"


def _holds_objects(field: str) -> bool:
    """Whether a row of the table of fields cannot say all about a field."""
    schema = JobInput.model_json_schema()["properties"][field]
    return "$ref" in json.dumps(schema)
