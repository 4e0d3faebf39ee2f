"""The API as an OpenAPI 3.1 document: RunPod's routes with this worker's objects."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from animatediff import __version__
from animatediff.errors import ADVICE

from .examples import CANCELS, ENDS, REQUESTS, STATUSES, STREAMS, Examples
from .examples import RECEIPTS as RECEIPT_EXAMPLES
from .job_input import JobInput
from .job_output import JobError, JobOutput
from .job_progress import JobProgress
from .platform import JobReceipt, JobRequest, JobStatus, Stream

_SCHEMAS = "#/components/schemas/"
_JSON = "application/json"
_OBJECTS = (
    JobRequest,
    JobReceipt,
    JobStatus,
    Stream,
    JobInput,
    JobProgress,
    JobOutput,
    JobError,
)
_JOB_ID: Mapping[str, Any] = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "The id from the answer to /run or /runsync.",
}
_WAIT: Mapping[str, Any] = {
    "name": "wait",
    "in": "query",
    "schema": {
        "type": "integer",
        "minimum": 1000,
        "maximum": 300_000,
        "default": 90_000,
    },
    "description": "Milliseconds to wait for the job's end.",
}
_REFUSALS: Mapping[str, str] = {
    "400": "The body is no JSON object with `input`.",
    "401": "The key is wrong, or may not use this endpoint.",
    "404": "There is no such endpoint, or no such job, or its result has expired.",
    "429": "Too many requests or jobs. Wait, then send it again.",
    "500": "The platform failed. Send it again.",
}


@dataclass(frozen=True)
class Operation:
    """A route. ``answer`` is the object of its answer, with examples of it.

    ``requests``: examples of its body, if it has one.
    """

    id: str
    method: str
    path: str
    summary: str
    description: str
    answer: type[BaseModel]
    examples: Examples
    parameters: tuple[Mapping[str, Any], ...] = ()
    requests: Examples | None = None


OPERATIONS = (
    Operation(
        "run",
        "post",
        "/run",
        "Put a job into the queue",
        "Answers at once with the job's id. The body may have 10 MB; the result is kept"
        " for 30 minutes. The job's status names a wrong field, not this answer.",
        JobReceipt,
        RECEIPT_EXAMPLES,
        requests=REQUESTS,
    ),
    Operation(
        "runSync",
        "post",
        "/runsync",
        "Run a job, and wait for its end",
        "Answers when the job ends. If it does not within `wait`, the answer has the"
        " status so far, and /status has the rest. The body may have 20 MB; the result"
        " is kept for a minute.",
        JobStatus,
        STATUSES,
        parameters=(_WAIT,),
        requests=REQUESTS,
    ),
    Operation(
        "status",
        "get",
        "/status/{id}",
        "Read the status, the progress or the result of a job",
        "While the job runs, `output` is its progress, which is sent at most once a"
        " second. In the end it is the job's output.",
        JobStatus,
        STATUSES,
        parameters=(_JOB_ID,),
    ),
    Operation(
        "cancel",
        "post",
        "/cancel/{id}",
        "Cancel a job",
        "Takes the job out of the queue, or stops it at its next step. The worker then"
        " takes the next job. A job that has ended stays as it is.",
        JobStatus,
        CANCELS,
        parameters=(_JOB_ID,),
    ),
    Operation(
        "stream",
        "get",
        "/stream/{id}",
        "Read the parts of an output",
        "Every endpoint of the platform has this route. This worker sends no parts; its"
        " progress is in /status.",
        Stream,
        STREAMS,
        parameters=(_JOB_ID,),
    ),
)


def document() -> dict[str, Any]:
    """The whole document, as plain JSON values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AnimateDiff on RunPod",
            "version": __version__,
            "summary": "Clips from words, as jobs of a serverless endpoint.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {
                "url": "https://api.runpod.ai/v2/{endpoint_id}",
                "description": "A deployed endpoint.",
                "variables": {"endpoint_id": {"default": "ENDPOINT_ID"}},
            },
            {
                "url": "http://127.0.0.1:8000",
                "description": "`make serve`, without a key. There /status and /stream"
                " are POST, the job runs when its status is asked for, and there is no"
                " /cancel.",
            },
        ],
        "security": [{"key": []}],
        "paths": {row.path: {row.method: _operation(row)} for row in OPERATIONS},
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key of RunPod.",
                }
            },
            "responses": {
                _refusal_name(status): {"description": text}
                for status, text in _REFUSALS.items()
            },
            "callbacks": {"ended": _callback()},
            "schemas": _schemas(),
        },
    }


def _operation(row: Operation) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": row.id,
        "summary": row.summary,
        "description": row.description,
    }
    if row.parameters:
        operation["parameters"] = [dict(each) for each in row.parameters]
    if row.requests:
        content = _content(JobRequest, row.requests)
        operation["requestBody"] = {"required": True, "content": content}
    operation["responses"] = {
        "200": {
            "description": (row.answer.__doc__ or "").partition("\n")[0],
            "content": _content(row.answer, row.examples),
        },
        **dict(_refusals(row)),
    }
    if row.requests:
        operation["callbacks"] = {"ended": {"$ref": "#/components/callbacks/ended"}}
    return operation


def _refusals(row: Operation) -> Iterator[tuple[str, dict[str, str]]]:
    for status in _REFUSALS:
        if status != "400" or row.requests:
            yield status, {"$ref": f"#/components/responses/{_refusal_name(status)}"}


def _refusal_name(status: str) -> str:
    return f"Http{status}"


def _content(model: type[BaseModel], examples: Examples) -> dict[str, Any]:
    return {
        _JSON: {
            "schema": {"$ref": f"{_SCHEMAS}{_name(model)}"},
            "examples": {
                name: {"summary": each.summary, "value": each.value}
                for name, each in examples.items()
            },
        }
    }


def _callback() -> dict[str, Any]:
    post = {
        "summary": "A job has ended",
        "description": "The platform sends the job's status to the webhook. After any"
        " answer but 200 it tries twice more, 10 seconds apart.",
        "requestBody": {"content": _content(JobStatus, ENDS)},
        "responses": {"200": {"description": "The status has arrived."}},
    }
    return {"{$request.body#/webhook}": {"post": post}}


def _name(model: type[BaseModel]) -> str:
    """A model's name in the document: its title, if it has one of its own."""
    return model.model_config.get("title") or model.__name__


def _schemas() -> dict[str, Any]:
    pairs = [(model, "validation") for model in _OBJECTS]
    _, schema = models_json_schema(pairs, ref_template=_SCHEMAS + "{model}")  # pyright: ignore[reportArgumentType]
    names: dict[str, str] = {each.__name__: _name(each) for each in _OBJECTS}
    text = json.dumps(schema["$defs"])
    for name, shown in names.items():
        text = text.replace(f'"{_SCHEMAS}{name}"', f'"{_SCHEMAS}{shown}"')
    renamed: dict[str, Any] = json.loads(text)
    schemas = {names.get(name, name): each for name, each in renamed.items()}
    codes = [kind.code for kind in ADVICE]
    schemas["JobError"]["properties"]["code"]["examples"] = codes
    return schemas
