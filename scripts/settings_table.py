"""Write the table of docs/settings.md: python -m scripts.settings_table."""

from collections.abc import Iterator, Mapping

from animatediff.settings import BUCKET_VARIABLES, PROJECT_ROOT, VARIABLES, Variable

PAGE = PROJECT_ROOT / "docs" / "settings.md"
START, END = "<!-- settings: written by make schemas -->", "<!-- end of settings -->"


def settings_table() -> str:
    """All environment variables as a Markdown table."""
    rows = ["| variable | meaning | allowed | default |", "|---|---|---|---|"]
    rows += _rows(VARIABLES)
    rows += _rows(BUCKET_VARIABLES)
    return "\n".join(rows)


def _rows(variables: Mapping[str, Variable]) -> Iterator[str]:
    for name, row in variables.items():
        yield f"| `{name}` | {row.meaning} | {row.allowed} | {row.default} |"


def with_table(readme: str) -> str:
    """``readme`` with the current table between its two marks."""
    before, _, rest = readme.partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"docs/settings.md needs the lines {START} and {END}")
    return f"{before}{START}\n{settings_table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
