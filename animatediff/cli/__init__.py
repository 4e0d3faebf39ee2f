"""The ``animatediff`` command. Each subcommand imports what it needs when it runs."""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .. import __version__
from ..errors import AnimateDiffError

Main = Callable[[Sequence[str], str], int]
"""Takes the arguments and the program's name, and returns the exit status."""
INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + 2, as in a shell."""


class Command(NamedTuple):
    """A subcommand: the module of the package with its ``main``, and a line of help."""

    module: str
    summary: str


COMMANDS: Mapping[str, Command] = {
    "make": Command("cli.make", "make clips from words, a job or a YAML file"),
    "inspect": Command("cli.inspect", "show what a weight file is"),
    "fetch": Command("fetch.profiles", "download the weights of a profile"),
    "app": Command("cli.app", "open a page in the browser that makes clips"),
    "serve": Command("cli.serve", "serve RunPod's HTTP API on this machine"),
    "train": Command("training.command", "train a motion module, a LoRA or a control"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand that the arguments name, and return the exit status."""
    options = _parser().parse_args(arguments)
    command = _main_of(COMMANDS[options.command])
    return run(command, options.arguments, f"animatediff {options.command}")


def run(command: Main, arguments: Sequence[str], prog: str) -> int:
    """Run a command. An error becomes one line on stderr, and exit status 1."""
    try:
        return command(arguments, prog)
    except AnimateDiffError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; finished files are kept", file=sys.stderr)
        return INTERRUPTED


def _main_of(command: Command) -> Main:
    return importlib.import_module(f"animatediff.{command.module}").main


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {name:10} {command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="animatediff",
        usage="animatediff [--version] COMMAND ...",
        description="AnimateDiff: clips from words.",
        epilog="\n".join(
            ["commands:", *lines, "", "Help on one: animatediff COMMAND --help"]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"animatediff {__version__}"
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="one of those below"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser
