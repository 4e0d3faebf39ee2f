"""The wire: the JSON of a job, of its progress, its output and its error."""

from .job_input import JobInput, parse_job_input
from .job_output import JobError, JobOutput, render_job_output
from .job_progress import JobProgress

__all__ = [
    "JobError",
    "JobInput",
    "JobOutput",
    "JobProgress",
    "parse_job_input",
    "render_job_output",
]
