"""Training: python train.py --config configs/training/....yaml [key=value ...]

Keys have dots between levels, values are YAML: optimizer.lr=5e-5 validation.prompts='[a
red circle]'. Several GPUs or CPU processes: torchrun --nproc-per-node 2 train.py ...;
for GPUs, accelerate launch --multi_gpu train.py ... too (it starts several CPU
processes through MPI alone). A run that was interrupted goes on from its newest
checkpoint when it is started again; SIGTERM makes it save one first.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from animatediff.errors import AnimateDiffError

STOPPED = 143
"""The exit status of a run that a SIGTERM ended, after its checkpoint was saved: 128 +
15, as a shell counts.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="train.py", description="Train one stage of AnimateDiff."
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="such as configs/training/motion.yaml",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="in place of the config's"
    )
    options = parser.parse_args(arguments)
    main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if main_process else logging.ERROR,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    trainer = None
    try:
        try:
            from animatediff.training.config import load_config
            from animatediff.training.loop import Trainer
        except ModuleNotFoundError as error:
            print(
                f"{error.name} is missing: pip install -r requirements-train.txt",
                file=sys.stderr,
            )
            return 1
        trainer = Trainer(load_config(options.config, options.overrides))
        return 0 if trainer.run() else STOPPED
    except AnimateDiffError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the last checkpoint stays", file=sys.stderr)
        return 130
    finally:
        if trainer is not None:
            trainer.close()


if __name__ == "__main__":
    sys.exit(main())
