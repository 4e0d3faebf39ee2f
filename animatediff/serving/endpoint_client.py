"""A client of a RunPod endpoint: the SDK's own, with its failures as our errors."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import requests
import runpod  # pyright: ignore[reportMissingTypeStubs]

from ..errors import AnimateDiffError, ConfigurationError

_REFUSED = (401, 403)


class EndpointUnavailable(AnimateDiffError):
    """The endpoint does not answer, or not as an endpoint does."""

    code = "ENDPOINT_UNAVAILABLE"
    retryable = True


class EndpointClient:
    """Jobs of one endpoint.

    Every call raises ConfigurationError for a key or an endpoint that RunPod does not
    accept, and EndpointUnavailable. No message holds the key. ``api_url`` is the
    address of another server with RunPod's routes.
    """

    def __init__(self, endpoint_id: str, api_key: str, api_url: str = "") -> None:
        self.endpoint_id = endpoint_id
        sdk = cast(Any, runpod)
        self._endpoint: Any = sdk.Endpoint(endpoint_id, api_key=api_key)
        self._client: Any = self._endpoint.rp_client
        if api_url:
            self._client.endpoint_url_base = api_url

    def submit(self, job: Mapping[str, Any]) -> str:
        """Send a job; return its id."""
        body = {"input": dict(job)}
        return str(self._called(lambda: self._endpoint.run(body).job_id))

    def status(self, job_id: str) -> dict[str, Any]:
        """Return ``{"status", "output", "error", ...}`` of a job."""
        return self._called(
            lambda: self._client.get(f"{self.endpoint_id}/status/{job_id}")
        )

    def cancel(self, job_id: str) -> None:
        """End a job."""
        path = f"{self.endpoint_id}/cancel/{job_id}"
        self._called(lambda: self._client.post(path, None))

    def workers(self) -> dict[str, int]:
        """Return how many workers there are, by their states."""
        return dict(self._called(self._endpoint.health).get("workers", {}))

    def _called(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except requests.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            raise self._failure(status) from None
        except requests.RequestException as error:
            name = type(error).__name__
            message = f"RunPod does not answer ({name}); look at the connection"
            raise EndpointUnavailable(message) from None
        except RuntimeError:  # the SDK's word for 401
            raise self._failure(401) from None

    def _failure(self, status: int) -> AnimateDiffError:
        if status in _REFUSED:
            message = f"RunPod refuses the key in RUNPOD_API_KEY (HTTP {status})"
            return ConfigurationError(message, setting="RUNPOD_API_KEY")
        if status == 404:
            message = (
                f"RunPod knows no endpoint or job {self.endpoint_id} with this key"
            )
            return ConfigurationError(message, setting="--endpoint")
        return EndpointUnavailable(f"RunPod answers HTTP {status}; try again later")
