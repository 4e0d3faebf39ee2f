"""Settings of the command line, and where its clips go."""

import argparse
import re
from pathlib import Path
from typing import Any

from ..settings import Settings


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that take precedence over the environment's settings."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", help="cuda, cpu, ... (default: ANIMATEDIFF_DEVICE)")
    group.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        help="default: ANIMATEDIFF_DTYPE",
    )
    group.add_argument(
        "--without-xformers",
        action="store_true",
        help="use PyTorch's own attention, whatever ANIMATEDIFF_ATTENTION is",
    )


def settings_of(options: argparse.Namespace) -> Settings:
    """The environment's settings, changed by the options.

    Paths may name any file of this machine. Raises ConfigurationError.
    """
    changes: dict[str, Any] = {"any_path": True, "input_dir": Path()}
    if options.device:
        changes["device"] = options.device
    if options.dtype:
        changes["dtype"] = options.dtype
    if options.without_xformers:
        changes["attention_backend"] = "sdpa"
    return Settings.from_env().replace(**changes)


def file_name(prompt: str) -> str:
    """The first ten words of a prompt, as the name of a file."""
    words = re.sub(r"[^\w .,()'+-]", "", prompt).split()[:10]
    name = "-".join(words).encode()[:120].decode(errors="ignore")
    return name.strip(".-") or "clip"
