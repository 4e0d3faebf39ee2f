"""A job as a client sends it, in the ``input`` of a RunPod request."""

from typing import Any

from animatediff.job.clip import GenerationRequest
from animatediff.job.validation import validated

JobInput = GenerationRequest


def parse_job_input(raw: Any) -> GenerationRequest:
    """Check a job's ``input``. Raises InvalidRequest for its first wrong field.

    Further wrong fields are in the error's ``problems``.
    """
    return validated(JobInput, raw)
