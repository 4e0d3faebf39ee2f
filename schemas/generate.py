"""Write the schemas of this folder: python -m schemas.generate."""

import json
from pathlib import Path
from typing import Any

from . import JobError, JobInput, JobOutput, JobProgress
from .openapi import document

FOLDER = Path(__file__).parent
MODELS = {
    "job_input": JobInput,
    "job_progress": JobProgress,
    "job_output": JobOutput,
    "job_error": JobError,
}


def schema_texts() -> dict[Path, str]:
    """Every schema file and what it must hold."""
    schemas: dict[str, Any] = {
        f"{name}.schema.json": model.model_json_schema()
        for name, model in MODELS.items()
    }
    files = {**schemas, "openapi.json": document()}
    return {
        FOLDER / name: json.dumps(content, indent=2) + "\n"
        for name, content in files.items()
    }


if __name__ == "__main__":
    for path, text in schema_texts().items():
        path.write_text(text, encoding="utf-8")
