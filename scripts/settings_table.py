"""Write README's table of environment variables from ``animatediff.settings``: python
-m scripts.settings_table
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path

from animatediff.settings import (
    BUCKET_VARIABLES,
    PROJECT_ROOT,
    VARIABLES,
    BucketSettings,
    Settings,
    Variable,
)

README = PROJECT_ROOT / "README.md"
START, END = "<!-- settings: written by make schemas -->", "<!-- end of settings -->"


def settings_table() -> str:
    """All environment variables as a Markdown table: name, meaning, default."""
    rows = ["| variable | meaning | default |", "|---|---|---|"]
    rows += _rows(VARIABLES, Settings)
    rows += _rows(BUCKET_VARIABLES, BucketSettings)
    return "\n".join(rows)


def _rows(variables: Mapping[str, Variable], settings: type) -> Iterator[str]:
    defaults = {field.name: field.default for field in fields(settings)}
    for name, variable in variables.items():
        yield f"| `{name}` | {variable.meaning} | {variable.default or _shown(defaults[variable.field])} |"


def _shown(default: object) -> str:
    if default is MISSING:
        return "needed for a bucket"
    if default is None:
        return "-"
    if isinstance(default, bool):
        return f"`{int(default)}`"
    if isinstance(default, Path):
        home = Path.home()
        default = (
            default.relative_to(PROJECT_ROOT)
            if default.is_relative_to(PROJECT_ROOT)
            else default
        )
        default = (
            Path("~", default.relative_to(home))
            if default.is_relative_to(home)
            else default
        )
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def with_table(readme: str) -> str:
    """``readme`` with today's table between its two marks."""
    before, _, rest = readme.partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"README.md needs the lines {START} and {END}")
    return f"{before}{START}\n{settings_table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
