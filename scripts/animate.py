"""Clips from a YAML file of prompts: python -m scripts.animate --config FILE."""

import sys

from animatediff.cli import run

if __name__ == "__main__":
    sys.exit(run("make", sys.argv[1:], prog="python -m scripts.animate"))
