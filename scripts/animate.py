"""Clips from a YAML file of prompts: python -m scripts.animate --config FILE."""

import sys

from animatediff.cli import run
from animatediff.cli.animate import main

if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:], "python -m scripts.animate"))
