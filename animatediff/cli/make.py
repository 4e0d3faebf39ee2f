"""``animatediff make``: a clip from words or from a job, or the clips of a YAML file.

The options follow from the declaration of a job in ``animatediff.job.clip``.
"""

import argparse
import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..errors import InvalidRequest
from ..job.clip import GenerationRequest
from ..job.fields import Group, shown
from ..settings import Settings
from .environment import add_device_options, file_name, settings_of

EPILOG = """A list takes JSON: --loras '[{"path": "style.safetensors"}]'.
With --config FILE: the clips of a YAML file; animatediff make --config FILE --help
shows the options of that form."""
Answer = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None, prog: str = "make") -> int:
    """Make a clip, and print the path of its file. Raises AnimateDiffError."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if _is_yaml_form(words):
        from .animate import main as animate

        return animate(words, prog)
    options = _parser(prog).parse_args(words)
    job = job_input(options)
    answer = _run(job, settings_of(options), options.output)
    return _show(answer)


def _is_yaml_form(words: Sequence[str]) -> bool:
    return any(word == "--config" or word.startswith("--config=") for word in words)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Make a clip from words or from a job.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("prompt", nargs="?", metavar="WORDS", help="the prompt")
    parser.add_argument(
        "--job",
        type=Path,
        metavar="FILE",
        help="JSON file of a job; other options take precedence over its fields",
    )
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="FOLDER", help="default: here"
    )
    groups = {name: parser.add_argument_group(name) for name in get_args(Group)}
    for name, info, mark in shown(GenerationRequest):
        if name != "prompt":
            groups[mark.group].add_argument(
                option(name),
                dest=name,
                metavar="VALUE",
                help=(info.description or "").replace("%", "%%"),
            )
    add_device_options(parser)
    return parser


def option(field: str) -> str:
    """The option of a job's field."""
    return f"--{field.replace('_', '-')}"


def job_input(options: argparse.Namespace) -> dict[str, Any]:
    """The input of the job that the options describe. Raises InvalidRequest."""
    fields = _read_job(options.job) if options.job else {}
    for name, text in _texts(options):
        fields[name] = text if _is_text(name) else _value(text)
    return fields


def _texts(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for name, _, _ in shown(GenerationRequest):
        text = getattr(options, name)
        if text is not None:
            yield name, text


def _is_text(field: str) -> bool:
    """Whether a field takes its option as it is, and not as JSON."""
    schema = GenerationRequest.model_json_schema()["properties"][field]
    kinds = [schema, *schema.get("anyOf", ())]
    return any(kind.get("type") == "string" or "enum" in kind for kind in kinds)


def _value(text: str) -> Any:
    """A number, a switch or a list; other text as it is, for the check's message."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_job(path: Path) -> dict[str, Any]:
    """The input in a job's file: ``{"input": {...}}``, or the fields alone."""
    field = f"--job {path}"
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(field, error.strerror, "a file that can be read") from None
    except ValueError as error:
        raise InvalidRequest(field, str(error), "JSON") from None
    fields: Any = cast(Any, job).get("input", job) if isinstance(job, dict) else job
    if not isinstance(fields, dict):
        raise InvalidRequest(field, fields, "a JSON object")
    return dict(cast(Mapping[str, Any], fields))


def _run(job: Mapping[str, Any], settings: Settings, folder: Path) -> Answer:
    """Run the job as the service does, with the file in ``folder``."""
    from schemas import parse_job_input, render_job_output

    from ..engine import Engine
    from ..serving.job import JobRunner
    from ..serving.progress import BarProgress
    from ..serving.storage import LocalStorage

    parse_job_input(job)  # before the models load; raises InvalidRequest
    logging.getLogger("animatediff.events").addHandler(logging.NullHandler())
    runner = JobRunner(
        Engine(settings),
        LocalStorage(folder),
        settings,
        parse_job_input,
        render_job_output,
    )
    progress = BarProgress()
    delivery = {"id": file_name(job["prompt"].replace(",", "")), "input": job}
    try:
        return runner.run(delivery, progress, threading.Event())
    finally:
        progress.close()


def _show(answer: Answer) -> int:
    if error := answer.get("error"):
        print(f"{error['code']}: {error['message']}", file=sys.stderr)
        return 1
    for warning in answer["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    size = f"{answer['num_frames']} frames of {answer['width']}x{answer['height']}"
    seconds = answer["timings"]["total"]
    print(f"{size}, seed {answer['seed']}, {seconds:.1f} s", file=sys.stderr)
    print(_shown_path(answer["url"]))
    return 0


def _shown_path(url: str) -> Path:
    """The path of a file URL; relative if it is below the working directory."""
    path = Path(url2pathname(urlsplit(url).path))
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
