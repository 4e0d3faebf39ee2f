"""What the pages claim is real: links, commands, jobs, names and figures."""

import ast
import contextlib
import importlib
import inspect
import io
import json
import re
import runpy
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

import animatediff
from animatediff import errors
from animatediff.catalog.files import read_files
from animatediff.job.clip import Clip
from animatediff.job.fields import echoed
from animatediff.progress import Phase
from animatediff.settings import BUCKET_VARIABLES, VARIABLES
from schemas import JobOutput, parse_job_input
from tests.docs.pages import (
    GUIDES,
    PAGES,
    ROOT,
    Command,
    anchors,
    blocks,
    commands,
    links,
    name_of,
    prose,
    requests,
    spans,
)

MODELS = ROOT / "docs" / "models.md"
JOBS = ROOT / "docs" / "jobs.md"
API = ROOT / "docs" / "api.md"
MOST_WORDS = 800
MOST_COLUMNS = 120
SETTINGS = VARIABLES.keys() | BUCKET_VARIABLES.keys()
FOREIGN_PROGRAMS = {"curl", "docker", "hf", "ln", "sha256sum"}
"""Programs of others whose options are not checked here."""


def every_command() -> list[Command]:
    return [command for page in PAGES for command in commands(page)]


def ours(*programs: str) -> list[Command]:
    return [command for command in every_command() if command.words[0] in programs]


# pages


def test_readme_is_short() -> None:
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) <= MOST_WORDS


@pytest.mark.parametrize("page", [*GUIDES, ROOT / "ARCHITECTURE.md"], ids=name_of)
def test_lines_are_short(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    long = [line for line in lines if len(line) > MOST_COLUMNS]
    whole = ("|", '"error": ')  # a row, and a JSON text in JSON: neither can be broken
    assert [line for line in long if not line.lstrip().startswith(whole)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [link for link in links(page) if not leads_somewhere(page, link)]
    assert broken == []


def leads_somewhere(page: Path, link: str) -> bool:
    if link.startswith("https://"):
        return True
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return False
    return not anchor or anchor in anchors(target)


def test_every_guide_is_reached_from_the_readme_and_from_the_index() -> None:
    guides = {page.name for page in GUIDES} - {"README.md"}
    readme = {Path(link).name for link in links(ROOT / "README.md")}
    index = {Path(link).name for link in links(ROOT / "docs" / "README.md")}
    assert guides - readme == set()
    assert guides - index == set()


# commands


def test_pages_show_the_two_commands() -> None:
    shown = {command.words[:2] for command in commands(ROOT / "README.md")}
    assert {("make", "demo"), ("make", "test")} <= shown


def test_every_make_command_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^(\w+) *\??=", makefile, re.MULTILINE))
    used = [word for command in ours("make") for word in command.words[1:]]
    assert len(used) > 10
    assignments = {word.partition("=")[0] for word in used if "=" in word}
    assert {word for word in used if "=" not in word} - targets == set()
    assert assignments - variables == set()


def test_every_program_is_known() -> None:
    unknown = [command for command in every_command() if not is_known(command)]
    assert [str(command) for command in unknown] == []


def is_known(command: Command) -> bool:
    program = command.words[0].removeprefix(".venv/bin/")
    if program in FOREIGN_PROGRAMS or program == "make":
        return True
    if program in ("python", "animatediff", "torchrun", "accelerate", "pytest", "pip"):
        return True
    return (ROOT / program).is_file()


def test_every_file_in_a_command_exists() -> None:
    folders = ("configs/", "tests/", "scripts/", "docs/", "requirements")
    missing = [
        f"{command.page}: {word}"
        for command in every_command()
        for word in command.words
        if word.startswith(folders) and not (ROOT / word).exists()
    ]
    assert missing == []


@pytest.mark.slow
def test_every_command_of_ours_has_its_options() -> None:
    checked = 0
    for command in every_command():
        call = call_of(command)
        if call is None:
            continue
        module, subcommand, arguments = call
        if "--config" in arguments and subcommand == ("make",):
            subcommand = ("make", "--config", "FILE")  # the form for YAML files
        text = help_text(module, subcommand)
        options = [word.partition("=")[0] for word in arguments if word[:2] == "--"]
        missing = [word for word in options if not re.search(rf"{word}\b", text)]
        assert missing == [], command
        checked += 1
    assert checked >= 8


def call_of(command: Command) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    """Module or script, subcommand and arguments of a command of this project."""
    words = command.words
    program = words[0].removeprefix(".venv/bin/")
    if "train.py" in words:
        return "train.py", (), words[words.index("train.py") + 1 :]
    if program == "animatediff":
        return "animatediff", words[1:2], words[2:]
    if program == "python" and words[1] == "-m" and words[2] == "animatediff":
        return "animatediff", words[3:4], words[4:]
    if program == "python" and words[1] == "-m":
        return words[2], (), words[3:]
    return None


@cache
def help_text(module: str, subcommand: tuple[str, ...]) -> str:
    """What the command prints for --help; it runs in this process."""
    printed = io.StringIO()
    argv, sys.argv = sys.argv, [module, *subcommand, "--help"]
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # runpy: the module is imported already
            if module.endswith(".py"):
                runpy.run_path(str(ROOT / module), run_name="__main__")
            else:
                runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        if end.code:
            pytest.fail(f"{module} {subcommand} --help ended with {end.code}")
    finally:
        sys.argv = argv
    assert "usage:" in printed.getvalue().lower(), module
    return printed.getvalue()


def test_training_overrides_are_keys_of_the_config() -> None:
    training = pytest.importorskip("animatediff.training.config")
    for command in every_command():
        call = call_of(command)
        if call is None or call[0] != "train.py":
            continue
        arguments = [word for word in call[2] if not word.startswith("--")]
        overrides = [word for word in arguments if "=" in word]
        config = ROOT / call[2][call[2].index("--config") + 1]
        training.load_config(config, overrides)


def test_docker_targets_exist() -> None:
    bake = (ROOT / "docker-bake.hcl").read_text(encoding="utf-8")
    known = re.findall(r'^(?:target|group) "([\w-]+)"', bake, re.MULTILINE)
    for command in ours("docker"):
        if command.words[1:3] == ("buildx", "bake"):
            assert set(command.words[3:]) <= set(known), command


# weights


def test_profiles_are_listed_with_their_download() -> None:
    files = read_files()
    text = prose(MODELS)
    for name in files.profiles:
        size = sum(row.size or 0 for row in files.of_profile(name)) / 1e9
        (row,) = re.findall(rf"^\| `{name}` \|.*\|$", text, re.MULTILINE)
        assert row.endswith(f"| {size:.2f} GB |" if size else "| nothing |")


def test_refused_profiles_are_named() -> None:
    files = read_files()
    (sentence,) = re.findall(r"which are ([^.]*), because", one_line(MODELS))
    unpinned = [
        name
        for name in files.profiles
        if not all(row.pinned for row in files.of_profile(name))
    ]
    assert re.findall(r"`([^`]+)`", sentence) == unpinned


def one_line(page: Path) -> str:
    return " ".join(prose(page).split())


# jobs


def test_every_job_is_valid() -> None:
    jobs = [request for page in PAGES for request in requests(page)]
    assert len(jobs) >= 15
    for _page, request in jobs:
        parse_job_input(request["input"])


def test_json_blocks_are_json() -> None:
    for page in PAGES:
        for block in blocks(page, "json"):
            json.loads(block)


def test_the_output_is_an_output() -> None:
    outputs = [json.loads(block) for block in blocks(JOBS, "json") if '"url"' in block]
    assert len(outputs) == 1
    echo = echoed(Clip).items()
    defaults = {name: row.default for name, row in echo if not row.is_required()}
    JobOutput.model_validate({**defaults, **full_hashes(outputs[0])})


def full_hashes(value: Any) -> Any:
    """``value`` with every shortened hash filled up with zeros."""
    short = re.compile(r'"([0-9a-f]+)\.\.\."')
    text = short.sub(lambda match: f'"{match[1]:0<64}"', json.dumps(value))
    return json.loads(text)


def test_the_output_in_the_readme_has_real_fields() -> None:
    answers = [json.loads(block) for block in blocks(ROOT / "README.md", "json")]
    (output,) = [answer["output"] for answer in answers if "output" in answer]
    assert output.keys() <= JobOutput.model_fields.keys()


# names


def documented_codes() -> dict[str, str]:
    """Code -> the column "retryable" of the table of errors."""
    table = prose(API).partition("## Error codes")[2]
    rows = re.findall(r"^\| `([A-Z_]+)` \|(.*)\|$", table, re.MULTILINE)
    return {code: cells.split("|")[1].strip() for code, cells in rows}


def error_classes() -> Iterator[type[errors.AnimateDiffError]]:
    for value in vars(errors).values():
        if inspect.isclass(value) and issubclass(value, errors.AnimateDiffError):
            yield value


def test_every_error_code_is_documented_with_its_retryable() -> None:
    classes = {one.code: one for one in error_classes()}
    del classes["ANIMATEDIFF_ERROR"]  # the root of the tree
    table = documented_codes()
    assert table.keys() == classes.keys()
    for code, one in classes.items():
        expected = "yes" if one.retryable else "no"
        varies = "retryable" in inspect.signature(one.__init__).parameters
        assert table[code] == ("see the error" if varies else expected), code


def test_every_code_in_a_json_block_is_an_error_s() -> None:
    known = {one.code for one in error_classes()}
    texts = [block for page in PAGES for block in blocks(page, "json")]
    codes = {code for text in texts for code in re.findall(r'"code": "(\w+)"', text)}
    assert codes
    assert codes <= known


def test_the_phases_of_progress_are_all_named() -> None:
    text = one_line(JOBS)
    (sentence,) = re.findall(r"The phases are ([^.]*)\.", text)
    assert set(re.findall(r"`(\w+)`", sentence)) == set(get_args(Phase))


def test_the_events_of_the_log_are_all_named() -> None:
    logs = prose(ROOT / "docs" / "deploy.md").partition("## Logs")[2]
    table = logs.partition("## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = {event for cell in cells for event in re.findall(r"`(\w+)`", cell)}
    sources = [ROOT / "handler.py", *(ROOT / "animatediff").rglob("*.py")]
    calls = re.compile(r'log_event\(\s*"(\w+)"')
    logged = [calls.findall(path.read_text(encoding="utf-8")) for path in sources]
    assert named == {event for events in logged for event in events}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_variable_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:ANIMATEDIFF|BUCKET)_[A-Z][A-Z_]*[A-Z]\b", text))
    assert named - SETTINGS - {one.code for one in error_classes()} == set()
    hub = set(re.findall(r"\bHF_[A-Z_]*[A-Z]\b", text))
    assert [name for name in hub if name not in hub_variables()] == []


def hub_variables() -> str:
    """The module of the hub's library in which it reads its variables."""
    constants = importlib.import_module("huggingface_hub.constants")
    assert constants.__file__ is not None
    return Path(constants.__file__).read_text(encoding="utf-8")


def test_variables_outside_the_pages_exist_too() -> None:
    hub = json.loads((ROOT / ".runpod" / "hub.json").read_text(encoding="utf-8"))
    named = {row["key"] for row in hub["config"]["env"]}
    named |= {key for preset in hub["config"]["presets"] for key in preset["defaults"]}
    assert {name for name in named if not name.startswith("HF_")} <= SETTINGS


def test_every_file_in_inline_code_exists() -> None:
    """Paths into the code, such as ``tests/models/test_unet.py``."""
    rooms = ("animatediff/", "schemas/", "tests/", "scripts/", "lab/", "builder/")
    for page in [*GUIDES, ROOT / "ARCHITECTURE.md"]:
        for span in spans(page):
            if span.startswith(rooms) and not re.search(r"[ {]", span):
                assert (ROOT / span).exists(), f"{name_of(page)}: {span}"


# Python


def snippets() -> list[str]:
    return [block for page in GUIDES for block in blocks(page, "python")]


def test_python_snippets_compile_and_name_what_exists() -> None:
    result = snippets()
    assert len(result) >= 3
    for snippet in result:
        tree = ast.parse(snippet)
        for node in ast.walk(tree):
            check_import(node)
            check_attribute(node)
            check_call(node)


def check_import(node: ast.AST) -> None:
    if isinstance(node, ast.ImportFrom) and node.module:
        module = importlib.import_module(node.module)
        assert [
            name.name for name in node.names if not hasattr(module, name.name)
        ] == []


def owner_of(node: ast.AST) -> Any:
    """What a snippet's ``animatediff`` or ``pipeline`` is; None for other names."""
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
        return None
    owners = {"animatediff": animatediff, "pipeline": animatediff.AnimationPipeline}
    return owners.get(node.value.id)


def check_attribute(node: ast.AST) -> None:
    owner = owner_of(node)
    if isinstance(node, ast.Attribute) and owner is not None:
        assert node.attr in names_of(owner), node.attr


def names_of(owner: Any) -> set[str]:
    """The names that a module shows, or the attributes of a class's instances."""
    set_by_init = owner.__init__.__code__.co_names if isinstance(owner, type) else ()
    return {*dir(owner), *set_by_init}


def check_call(node: ast.AST) -> None:
    """The arguments of a call of ours fit the signature."""
    owner = owner_of(node.func) if isinstance(node, ast.Call) else None
    if owner is None:
        return
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Attribute)
    is_method = owner is not animatediff
    positional = [None] * (len(node.args) + is_method)
    keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
    inspect.signature(getattr(owner, node.func.attr)).bind(*positional, **keywords)
