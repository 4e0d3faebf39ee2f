"""The command line of training, for ``train.py`` and ``animatediff train``.

Keys have dots between levels and values are YAML, such as optimizer.lr=5e-5 or
validation.prompts='[a red circle]'. Several GPUs or CPU processes: torchrun
--nproc-per-node 2 train.py ...; for GPUs also accelerate launch --multi_gpu train.py
... (for CPU processes, accelerate needs MPI). An interrupted run resumes from its
newest checkpoint when it is started again. SIGTERM saves a checkpoint first.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import AnimateDiffError

STOPPED = 143
"""Exit status after a SIGTERM: 128 + 15, as in a shell. The checkpoint is saved."""
INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def main(arguments: Sequence[str] | None = None, prog: str = "train.py") -> int:
    """Train as the command line says, and return the exit status."""
    options = _parser(prog).parse_args(arguments)
    _log_to_stderr()
    _allow_sources_here()
    try:
        return _train(options.config, options.overrides)
    except AnimateDiffError as error:
        return _failed(f"{error.code}: {error.message}")
    except KeyboardInterrupt:
        _failed("interrupted; the last checkpoint is kept")
        return INTERRUPTED


def _train(config: Path, overrides: Sequence[str]) -> int:
    try:
        from .config import load_config
        from .loop import Trainer
    except ModuleNotFoundError as error:
        return _failed(
            f"{error.name} is missing: pip install -r requirements-train.txt"
        )
    trainer = Trainer(load_config(config, overrides))
    try:
        return 0 if trainer.run() else STOPPED
    finally:
        trainer.close()


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Train one stage of AnimateDiff."
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="such as configs/training/motion.yaml",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="values that replace those of the config",
    )
    return parser


def _log_to_stderr() -> None:
    is_main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if is_main_process else logging.ERROR,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )


def _allow_sources_here() -> None:
    """Make ``data.source`` importable from the folder that the command starts in."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _failed(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 1
