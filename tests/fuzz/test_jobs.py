"""Arbitrary JSON as jobs, nearly valid jobs, and small valid ones."""

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from animatediff.errors import shorten
from tests.fuzz.odd_values import (
    JSON,
    ODD,
    PIXEL,
    RAW,
    REFERENCES,
    TEXT,
    TINY,
    Nested,
    Place,
    built,
    mutated,
)
from tests.fuzz.service import Service, share, wrong_fields

RELATED = {  # a valid field can make another one invalid
    "num_frames": {"controls", "context"},
    "context": {"num_frames"},
    "loop": {"context", "num_frames"},
    "model": {"motion_module"},
    "motion_module": {"motion_module_version", "num_frames", "context"},
    "motion_module_version": {"context"},
    "scheduler": {"num_inference_steps"},
    "format": {"fps"},
}
NAMING: Mapping[str, Callable[[str], dict[str, Any]]] = {
    **{
        field: lambda name, field=field: {field: name}
        for field in ("model", "motion_module", "dreambooth", "vae")
    },
    "loras.0.path": lambda name: {"loras": [{"path": name}]},
    "embeddings.0.path": lambda name: {"embeddings": [{"path": name}]},
    "controls.0.path": lambda name: {"controls": [{"path": name, "images": [PIXEL]}]},
    "controls.0.images.0": lambda name: {
        "controls": [{"path": "rgb.safetensors", "images": [name]}]
    },
}
JOBS = st.one_of(
    st.just({}),
    st.builds(lambda raw: {"input": raw}, RAW),
    st.builds(lambda raw: {"id": "job", "input": raw}, RAW),
    st.builds(
        lambda name, raw, more: {**more, "id": name, "input": raw},
        ODD,
        RAW,
        st.dictionaries(TEXT, JSON, max_size=2),
    ),
)


@share(0.24)
@given(JOBS)
@example({"id": "a", "input": Nested(970, in_lists=True)})
@example({"id": "a", "input": {"prompt": Nested(970, in_lists=False)}})
def test_any_json_is_answered(service: Service, job: dict[str, Any]) -> None:
    service.send("any JSON", built(job))


@share(0.26)
@given(mutated(), st.integers(0, 1))
def test_a_nearly_valid_job_is_prepared_or_its_wrong_fields_are_named(
    service: Service, changed: tuple[dict[str, Any], list[Place]], way: int
) -> None:
    job, touched = built(changed[0]), changed[1]
    answer = service.prepare("nearly right", {"id": "job", "input": job}, way)
    if answer.get("code") == "INVALID_REQUEST":
        named = {field.partition(".")[0] for field in wrong_fields(answer)}
        tops = {shorten(str(place[0]).partition(".")[0], 50)[:50] for place in touched}
        if any(not top or "\\ud" in top for top in tops):
            tops.add("input")  # a message cannot contain such a key
        related = set().union(*(RELATED.get(top, set()) for top in tops))
        assert any(name.startswith(top) for name in named for top in tops | related)


@share(0.12)
@given(st.sampled_from(list(NAMING)), REFERENCES, st.integers(0, 1))
def test_a_reference_is_found_or_its_field_named(
    service: Service, field: str, reference: str, way: int
) -> None:
    job = {"prompt": "a red circle", **NAMING[field](reference)}
    answer = service.prepare("references", {"id": "job", "input": job}, way)
    if answer.get("code") == "INVALID_REQUEST":
        assert wrong_fields(answer) == [field]
    else:
        assert answer.get("code") in (None, "ASSET_UNAVAILABLE")


@share(0.04)
@given(ODD, TINY)
def test_small_valid_jobs_give_a_clip(
    service: Service, name: Any, job: dict[str, Any]
) -> None:
    assert "url" in service.send("small and valid", {"id": built(name), "input": job})


def test_a_normal_job_still_gives_the_same_frames(service: Service) -> None:
    service.check_frames()
