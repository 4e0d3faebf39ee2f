"""Write schemas/*.schema.json: python -m schemas.generate."""

import json
from pathlib import Path

from . import JobError, JobInput, JobOutput

FOLDER = Path(__file__).parent
MODELS = {"job_input": JobInput, "job_output": JobOutput, "job_error": JobError}


def schema_texts() -> dict[Path, str]:
    """Every schema file and what it must hold."""
    return {
        FOLDER / f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=2)
        + "\n"
        for name, model in MODELS.items()
    }


if __name__ == "__main__":
    for path, text in schema_texts().items():
        path.write_text(text, encoding="utf-8")
