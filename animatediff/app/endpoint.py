"""The back end that sends jobs to a RunPod endpoint."""

import base64
import json
import threading
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import requests

from ..atomic import written_whole
from ..errors import AnimateDiffError, JobCancelled, StorageError
from ..serving.endpoint_client import EndpointClient
from ..serving.job import Parse
from ..serving.storage import safe_name
from ..video import OUTPUT_FORMATS
from .backends import Event, Failed, Finished, Job, Update, Waiting
from .moving import strip_of_url

POLL_SECONDS = 1.0
MAX_BYTES = 1_000_000_000
_SECONDS = (10, 60)
_ASLEEP = (
    "the endpoint sleeps: no worker runs. RunPod starts one, which may take minutes"
)


class EndpointBackend:
    """Sends jobs through ``client``, and keeps their files in ``folder``."""

    at_once = 3

    def __init__(
        self,
        client: EndpointClient,
        folder: Path,
        parse: Parse,
        pause: float = POLL_SECONDS,
    ) -> None:
        self.title = f"RunPod endpoint {client.endpoint_id}"
        self._client, self._folder, self._pause = client, folder, pause
        self._parse = parse

    def check(self, job: Job) -> None:
        """Check the fields of ``job`` one by one. Raises InvalidRequest."""
        self._parse(dict(job))

    def run(self, job: Job, cancelled: threading.Event) -> Generator[Event]:
        """Send the job, and yield what its status says until it has ended."""
        try:
            yield from self._run(job, cancelled)
        except AnimateDiffError as error:
            yield Failed(error.to_dict())

    def _run(self, job: Job, cancelled: threading.Event) -> Iterator[Event]:
        job_id = self._client.submit(job)
        status = self._client.status(job_id)
        while status["status"] in ("IN_QUEUE", "IN_PROGRESS"):
            yield self._waiting(status)
            if cancelled.wait(self._pause):
                self._client.cancel(job_id)
                raise JobCancelled("the job was cancelled")
            status = self._client.status(job_id)
        yield self._last(job_id, status)

    def _waiting(self, status: Mapping[str, Any]) -> Event:
        if status["status"] == "IN_QUEUE":
            asleep = not any(self._client.workers().values())
            return Waiting(note=_ASLEEP if asleep else "waits in RunPod's queue")
        progress: Any = status.get("output")
        fields = cast(Job, progress if isinstance(progress, dict) else {})
        return Update(fields, strip_of_url(fields.get("preview")))

    def _last(self, job_id: str, status: Mapping[str, Any]) -> Event:
        if status["status"] == "COMPLETED":
            output: Mapping[str, Any] = status["output"]
            return Finished(self._kept(job_id, output), output)
        return Failed(_error(status))

    def _kept(self, job_id: str, output: Mapping[str, Any]) -> Path:
        """Fetch the clip into the folder. Raises StorageError."""
        suffix = OUTPUT_FORMATS[output["format"]].suffix
        path = self._folder / f"{safe_name(job_id)}-{output['sha256'][:12]}{suffix}"
        content = _content(output["url"])
        try:
            with written_whole(path) as part:
                part.write_bytes(content)
        except OSError as error:
            message = f"the clip cannot be written: {error.strerror}"
            raise StorageError(message) from error
        return path


def _error(status: Mapping[str, Any]) -> dict[str, Any]:
    """The error in a status; RunPod's own words where it is none of ours."""
    text = str(status.get("error") or status["status"])
    try:
        error: Any = json.loads(text)
    except ValueError:
        error = None
    if isinstance(error, dict) and "message" in error:
        return cast("dict[str, Any]", error)
    return {"code": str(status["status"]), "message": text[:500], "retryable": True}


def _content(url: str) -> bytes:
    if url.startswith("data:"):
        return base64.b64decode(url.partition(",")[2])
    if not url.startswith(("https://", "http://")):
        raise StorageError("the endpoint keeps its clips where only its workers see it")
    try:
        with requests.get(url, timeout=_SECONDS, stream=True) as answer:
            answer.raise_for_status()
            content = answer.raw.read(MAX_BYTES + 1, decode_content=True)
    except requests.RequestException as error:
        name = type(error).__name__
        raise StorageError(f"the clip cannot be fetched ({name})") from None
    if len(content) > MAX_BYTES:
        raise StorageError("the clip is too large to fetch")
    return content
