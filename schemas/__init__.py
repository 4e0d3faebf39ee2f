"""The wire: the JSON of a job, of its output and of its error."""

from .job_input import JobInput, parse_job_input
from .job_output import JobError, JobOutput, render_job_output

__all__ = ["JobError", "JobInput", "JobOutput", "parse_job_input", "render_job_output"]
