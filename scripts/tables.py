"""Write the generated parts of README.md and docs/: python -m scripts.tables.

A part stands between two marks, wherever a page has them.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from animatediff.job.clip import (
    ControlFile,
    EmbeddingFile,
    GenerationRequest,
    LoraFile,
    PreviewRequest,
)
from animatediff.job.fields import Names, Shown, marker
from animatediff.job.resolve import defaults_by_model
from animatediff.job.validation import allowed_words
from animatediff.settings import BUCKET_VARIABLES, PROJECT_ROOT, VARIABLES, Variable

from .api_page import error_codes, http_answers, objects, operations, row

PAGES = (PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md")))
_FILES: Mapping[str, type[BaseModel]] = {
    "loras[].": LoraFile,
    "embeddings[].": EmbeddingFile,
    "controls[].": ControlFile,
    "preview.": PreviewRequest,
}
_OTHER_DEFAULTS = {
    "seed": "drawn, and returned",
    "model": "the first that is installed",
    "motion_module": "the first of the model's that is installed",
}


def job_fields_table() -> str:
    """Return the fields of a job, and of the files that it names, in Markdown."""
    rows = ["| field | meaning | allowed | default |", "|---|---|---|---|"]
    rows += _field_rows("", GenerationRequest)
    for place, model in _FILES.items():
        rows += _field_rows(place, model)
    return "\n".join(rows)


def _field_rows(place: str, model: type[BaseModel]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        names = marker(info, Names)
        closed = names is not None and not names.others
        allowed = "one of these names" if closed else allowed_words(model, name)
        field, default = f"`{place}{name}`", _default(name, info)
        yield row(field, info.description, allowed, default)


def _default(name: str, info: FieldInfo) -> str:
    mark = marker(info, Shown)
    if info.is_required():
        return "required"
    if mark is not None and mark.by_model:
        return _OTHER_DEFAULTS.get(name) or _by_model(name)
    return _value(info.default)


def _by_model(name: str) -> str:
    """Return the default of the first model, and of each one that differs from it."""
    rows = defaults_by_model()
    values = {model: row[name] for model, row in rows.items()}
    first, *_ = values.values()
    usual = _value(first)
    others: list[str] = []
    for model, value in values.items():
        if value != first:
            others.append(f"{model}: {_value(value)}")
    return f"{usual} ({', '.join(others)})" if others else usual


def _value(value: Any) -> str:
    if value in (None, (), ""):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_table() -> str:
    """Return all environment variables as a Markdown table."""
    rows = ["| variable | meaning | allowed | default |", "|---|---|---|---|"]
    rows += _setting_rows(VARIABLES)
    rows += _setting_rows(BUCKET_VARIABLES)
    return "\n".join(rows)


def _setting_rows(variables: Mapping[str, Variable]) -> Iterator[str]:
    for name, each in variables.items():
        yield row(f"`{name}`", each.meaning, each.allowed, each.default)


TABLES: Mapping[str, Callable[[], str]] = {
    "job fields": job_fields_table,
    "settings": settings_table,
    "operations": operations,
    "http answers": http_answers,
    "objects": objects,
    "error codes": error_codes,
}


def with_tables(page: str) -> str:
    """Return ``page`` with the current table between each pair of marks."""
    for name, table in TABLES.items():
        page = _with_table(page, name, table())
    return page


def _with_table(page: str, name: str, table: str) -> str:
    start, end = f"<!-- {name}: written by make schemas -->", f"<!-- end of {name} -->"
    if start not in page:
        return page
    before, _, rest = page.partition(start)
    _, mark, after = rest.partition(end)
    if not mark:
        raise ValueError(f"a page with {start} needs {end}")
    return f"{before}{start}\n{table}\n{end}{after}"


def _write(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    page.write_text(with_tables(text), encoding="utf-8")


if __name__ == "__main__":
    for path in PAGES:
        _write(path)
