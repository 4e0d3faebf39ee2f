"""schemas/openapi.json is a valid document, and its examples are what is sent."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator, ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from animatediff.errors import ADVICE
from animatediff.progress import Phase, Progress
from animatediff.serving.progress import update_of
from schemas import JobError, JobInput, JobProgress, parse_job_input
from schemas.openapi import OPERATIONS, document

DOCUMENT = json.loads(
    (Path(__file__).parent.parent / "schemas" / "openapi.json").read_text()
)
COMPONENTS = DOCUMENT["components"]["schemas"]
PARTS = Registry().with_resource(
    "urn:api", Resource.from_contents(DOCUMENT, default_specification=DRAFT202012)
)


def check(reference: str, value: Any) -> None:
    """Raise ValidationError unless ``value`` is what the document says there."""
    schema = {"$ref": f"urn:api{reference}"}
    Draft202012Validator(schema, registry=PARTS).validate(value)


def test_the_document_is_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    assert json.loads(json.dumps(document())) == DOCUMENT


def test_a_broken_document_is_refused() -> None:
    broken = copy.deepcopy(DOCUMENT)
    del broken["paths"]["/status/{id}"]["get"]["parameters"]
    assert list(OpenAPIV31SpecValidator(broken).iter_errors())


def test_every_route_of_the_platform_is_there() -> None:
    routes = {
        (method, path)
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
    }
    assert routes == {
        ("post", "/run"),
        ("post", "/runsync"),
        ("get", "/status/{id}"),
        ("post", "/cancel/{id}"),
        ("get", "/stream/{id}"),
    }


def contents(node: Any) -> Iterator[dict[str, Any]]:
    """Every place of the document that has a schema with examples."""
    if isinstance(node, dict):
        if isinstance(node.get("examples"), dict):
            yield node
        for each in node.values():
            yield from contents(each)


EXAMPLES = [
    (f"{i}-{name}", place["schema"]["$ref"], each["value"])
    for i, place in enumerate(contents(DOCUMENT))
    for name, each in place["examples"].items()
]


@pytest.mark.parametrize(
    ("reference", "value"),
    [row[1:] for row in EXAMPLES],
    ids=[row[0] for row in EXAMPLES],
)
def test_every_example_is_allowed(reference: str, value: Any) -> None:
    check(reference, value)


def test_examples_are_allowed_by_the_models_too() -> None:
    for row in OPERATIONS:
        for each in row.examples.values():
            row.answer.model_validate_json(json.dumps(each.value))
        for each in (row.requests or {}).values():
            assert parse_job_input(each.value["input"]).prompt


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JobRequest", {"prompt": "a"}),
        ("JobRequest", {"input": {"prompt": "a", "width": 513}}),
        ("JobStatus", {"id": "1", "status": "RUNNING"}),
        ("JobStatus", {"id": "1", "status": "COMPLETED", "output": {"url": "x"}}),
        ("JobStatus", {"id": "1", "status": "FAILED", "error": {"code": "INTERNAL"}}),
        ("JobProgress", {"phase": "rendering", "step": 1, "total": 2}),
        ("JobReceipt", {"status": "IN_QUEUE"}),
    ],
)
def test_other_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        check(f"#/components/schemas/{name}", value)


def test_errors_in_examples_are_errors() -> None:
    texts = [value.get("error") for _, _, value in EXAMPLES]
    errors = [JobError.model_validate_json(text) for text in texts if text]
    assert errors
    assert {error.code for error in errors} <= {kind.code for kind in ADVICE}


def test_the_objects_of_a_job_are_those_of_the_schema_files() -> None:
    folder = Path(__file__).parent.parent / "schemas"
    for name in ("JobInput", "JobOutput", "JobProgress"):
        stem = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
        alone = json.loads((folder / f"{stem}.schema.json").read_text())
        assert COMPONENTS[name]["properties"].keys() == alone["properties"].keys()
    assert JobInput.model_fields.keys() == COMPONENTS["JobInput"]["properties"].keys()


@pytest.mark.parametrize("phase", get_args(Phase))
@pytest.mark.parametrize("seconds_left", [None, 8.25])
def test_an_update_is_a_progress(phase: Phase, seconds_left: float | None) -> None:
    update = update_of(Progress(phase, 3, 0), seconds_left)
    JobProgress.model_validate(update)
    check("#/components/schemas/JobProgress", update)
