"""The form follows the job's declaration, and says what is wrong at the field."""

from typing import get_args

import pytest

from animatediff.app.exports import EXPORTS, as_json, as_yaml
from animatediff.app.form import TITLES, job_of, messages_of, rows, values_of
from animatediff.app.presets import PRESETS, preset_of, presets, save_preset
from animatediff.errors import InvalidRequest
from animatediff.job.clip import GenerationRequest
from animatediff.job.fields import Group, shown
from schemas import parse_job_input

ROWS = {row.name: row for row in rows()}


def test_every_field_of_a_job_has_a_row_in_its_group() -> None:
    groups = {name: mark.group for name, _, mark in shown(GenerationRequest)}
    assert {name: row.group for name, row in ROWS.items()} == groups
    assert set(TITLES) == set(get_args(Group))
    order = [list(TITLES).index(row.group) for row in rows()]
    assert order == sorted(order)
    assert all(row.info for row in rows())


def test_rows_have_the_kind_of_their_field() -> None:
    kinds = {name: ROWS[name].kind for name in ("prompt", "width", "seed", "loras")}
    assert kinds == {
        "prompt": "text", "width": "number", "seed": "text", "loras": "json",
    }  # fmt: skip
    assert ROWS["scheduler"].kind == "choice"
    assert not ROWS["scheduler"].others
    assert ROWS["motion_module"].others


def test_an_empty_form_is_the_smallest_job() -> None:
    empty = values_of({"prompt": "a red circle"})
    job = job_of(empty)
    assert parse_job_input(job) == parse_job_input({"prompt": "a red circle"})


def test_a_job_fills_the_form_and_comes_back() -> None:
    job = {
        "prompt": "a red circle",
        "seed": 2**64 - 1,
        "width": 64,
        "loras": [{"path": "a.safetensors", "strength": 0.5}],
        "format": "gif",
    }
    back = job_of(values_of(job))
    assert {key: back[key] for key in job} == job
    assert parse_job_input(back) == parse_job_input(job)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("width", 65.0, "a multiple of 8"),
        ("width", 64.5, "an integer"),
        ("width", "65", "a multiple of 8"),
        ("width", "wide", "an integer"),
        ("guidance_scale", "NaN", "a finite number"),
        ("seed", "seven", "an integer"),
        ("loras", "[{]", "a list"),
        ("loras", '[{"path": "a.safetensors", "strength": 99}]', "from -10 to 10"),
        ("scheduler", "none", "one of ddim"),
    ],
)
def test_a_wrong_value_is_told_at_its_row(name: str, value: object, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job_input(job_of({"prompt": "a", name: value}))
    messages = messages_of(caught.value)
    assert list(messages) == [name]
    assert words in messages[name]


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_job_input(job_of({"prompt": "a", "width": 1, "fps": 0}))
    assert messages_of(caught.value).keys() == {"width", "fps"}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_our_presets_are_jobs(preset) -> None:
    assert parse_job_input({"prompt": "a", **preset.values})
    assert preset.line


def test_a_preset_is_kept_without_its_prompt(tmp_path) -> None:
    job = {"prompt": "secret words", "width": 64}
    save_preset(tmp_path, " small ", job)
    save_preset(tmp_path, "small", {**job, "height": 64})
    assert [each.name for each in presets(tmp_path)][-1] == "small"
    kept = preset_of(tmp_path, "small")
    assert kept is not None
    assert kept.values == {"width": 64, "height": 64}
    assert "secret" not in (tmp_path / "presets.json").read_text()
    with pytest.raises(InvalidRequest):
        save_preset(tmp_path, "", job)


@pytest.mark.parametrize("text", ["", "[1]", '[{"name": 1}]', "{", '{"a": 1}'])
def test_a_damaged_file_of_presets_is_none(tmp_path, text: str) -> None:
    (tmp_path / "presets.json").write_text(text)
    assert presets(tmp_path) == PRESETS


def test_exports_hold_the_job(tmp_path) -> None:
    import json
    import subprocess

    from animatediff.cli.prompt_config import read_entries, requests

    job = {"prompt": "it's a red circle", "seed": 7, "width": 64, "guidance_scale": 4.0}
    assert json.loads(as_json(job)) == {"input": job}
    for write in EXPORTS.values():
        assert "red circle" in write(job)
    compile(EXPORTS["Python"](job), "job.py", "exec")
    words = EXPORTS["curl"](job).replace("curl", "printf '%s\\n'")
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {"input": job}
    path = tmp_path / "job.yaml"
    path.write_text(as_yaml({**job, "format": "gif"}))
    assert "# without format" in path.read_text()
    (entry,) = read_entries(path)
    (request,) = requests(entry, "here")
    assert {key: getattr(request, key) for key in job} == job
