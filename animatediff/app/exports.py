"""A job as text to copy: JSON, curl, Python, and YAML for scripts/animate.py."""

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from ..job.clip import GenerationRequest
from ..job.fields import shown

Job = Mapping[str, Any]


def as_json(job: Job) -> str:
    """Return the job as RunPod takes it, and as a file for ``animatediff make``."""
    return json.dumps({"input": dict(job)}, indent=1, ensure_ascii=False)


def as_curl(job: Job) -> str:
    """Return a command that sends the job to an endpoint and waits for its clip."""
    body = shlex.quote(json.dumps({"input": dict(job)}))
    return (
        'curl -s "https://api.runpod.ai/v2/$ENDPOINT_ID/runsync" \\\n'
        '  -H "Authorization: Bearer $RUNPOD_API_KEY" \\\n'
        f"  -H 'Content-Type: application/json' \\\n  -d {body}"
    )


def as_python(job: Job) -> str:
    """Return a program that makes the clip by this package."""
    return (
        "from animatediff.engine import Engine\n"
        "from animatediff.job.clip import GenerationRequest\n"
        "from animatediff.settings import Settings\n\n"
        f"request = GenerationRequest(**{dict(job)!r})\n"
        "engine = Engine(Settings.from_env())\n"
        "clip = engine.generate(engine.prepare(request))\n"
        "print(clip.video.frames.shape, clip.clip.seed)\n"
    )


def as_yaml(job: Job) -> str:
    """Return the job as an entry for ``scripts.animate``.

    What those files cannot say is named in a comment: several LoRAs and controls are
    written otherwise there.
    """
    keys = {name: mark.yaml or name for name, _, mark in shown(GenerationRequest)}
    keys |= {"prompt": "prompt", "negative_prompt": "n_prompt"}
    told = [name for name in job if name not in _OTHERWISE]
    entry: dict[str, Any] = {keys[name]: job[name] for name in told}
    for name in ("prompt", "n_prompt", "seed"):
        if name in entry:
            entry[name] = [entry[name]]
    text = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)
    missing = [name for name in job if name in _OTHERWISE]
    return text + (f"# without {', '.join(missing)}\n" if missing else "")


_OTHERWISE = ("format", "loras", "controls", "motion_module_version")

EXPORTS: Mapping[str, Callable[[Job], str]] = {
    "JSON job": as_json,
    "curl": as_curl,
    "Python": as_python,
    "YAML": as_yaml,
}
"""The titles of the exports, and their writers."""
