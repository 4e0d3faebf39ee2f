"""The wire: what a job may say and what it is answered. Everything that a client sees
is declared here.
"""

from .job_input import JobInput, parse_job_input
from .job_output import JobError, JobOutput, render_job_output

__all__ = ["JobError", "JobInput", "JobOutput", "parse_job_input", "render_job_output"]
