"""The generated tables of the pages."""

import pytest

from schemas import JobInput
from scripts.tables import PAGES, TABLES, job_fields_table, with_tables


def test_pages_are_up_to_date() -> None:
    pages = [path.read_text(encoding="utf-8") for path in PAGES]
    for path, page in zip(PAGES, pages, strict=True):
        assert page == with_tables(page), f"{path.name}: run make schemas"
    for name in TABLES:
        mark = f"<!-- {name}: written by make schemas -->"
        assert sum(mark in page for page in pages) == 1


def test_the_table_has_every_field_of_a_job() -> None:
    table = job_fields_table()
    for name in JobInput.model_fields:
        assert f"\n| `{name}` | " in table
    assert (
        "| `width` | Width in pixels. | an integer from 64 to 2048, a multiple"
        " of 8 | 512 (shapeworld: 64) |"
    ) in table
    assert "| `controls[].frame_indices` |" in table


def test_choices_have_their_titles() -> None:
    table = job_fields_table()
    assert "ddim: DDIM, the published default; " in table
    assert "sd15: Stable Diffusion 1.5; " in table
    assert "animatelcm_sd15: AnimateLCM, 4 to 8 steps; " in table


def test_a_limit_by_another_field_is_shown_with_it() -> None:
    table = job_fields_table()
    assert "| an integer from 1 to 150; at most 50 with lcm |" in table
    assert "| an integer from 1 to 60; at most 50 with gif |" in table


def test_a_mark_without_its_end_is_refused() -> None:
    with pytest.raises(ValueError, match="end of settings"):
        with_tables("<!-- settings: written by make schemas -->\n")
