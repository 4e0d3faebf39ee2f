"""Training runs one after the other in this process and its peers: torchrun ...
two_processes.py CONFIG ...
"""

import faulthandler
import logging
import sys
from functools import cache

from animatediff.checkpoints import diffusers_folder
from animatediff.training import command
from animatediff.training.config import load_config
from animatediff.training.loop import Trainer
from animatediff.training.report import Report

PATIENCE_SECONDS = 900
"""Most of what a busy machine takes; a run that waits for longer says where, and ends.
"""


def draw_nothing(self: Report) -> None:
    """Replace the loss figure, as conftest.py does."""


if __name__ == "__main__":
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
    logging.basicConfig(level=logging.INFO)
    diffusers_folder.load_tokenizer = cache(diffusers_folder.load_tokenizer)
    Report.draw = draw_nothing
    *first, last = sys.argv[1:]
    for path in first:
        Trainer(load_config(path)).run()
    sys.exit(command.main(["--config", last]))  # which leaves the process group
