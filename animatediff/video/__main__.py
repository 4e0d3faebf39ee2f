"""Print the settings in a clip: python -m animatediff.video FILE."""

import sys

from ..cli import run
from ..cli.clip_settings import main

if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:], "python -m animatediff.video"))
