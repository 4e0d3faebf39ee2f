"""Measure this project beside diffusers: python -m scripts.bench."""

import sys

from lab.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
