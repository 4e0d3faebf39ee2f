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
    entered = {name: value for name, value in job.items() if name not in _OTHERWISE}
    entry = {_yaml_key(name): _listed(name, value) for name, value in entered.items()}
    text = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)
    missing = [name for name in job if name in _OTHERWISE]
    return text + (f"# without {', '.join(missing)}\n" if missing else "")


def _yaml_key(name: str) -> str:
    keys = {name: mark.yaml or name for name, _, mark in shown(GenerationRequest)}
    return {**keys, "negative_prompt": "n_prompt"}[name]


def _listed(name: str, value: Any) -> Any:
    return [value] if name in _ONE_A_CLIP else value


_ONE_A_CLIP = ("prompt", "negative_prompt", "seed")
"""Fields that those files list, with a value for each clip."""
_OTHERWISE = ("format", "loras", "controls", "motion_module_version")

EXPORTS: Mapping[str, Callable[[Job], str]] = {
    "JSON job": as_json,
    "curl": as_curl,
    "Python": as_python,
    "YAML": as_yaml,
}
"""The titles of the exports, and their writers."""
