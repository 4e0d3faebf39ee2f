"""The page: python app.py [--endpoint ID]. It needs requirements-app.txt: make app."""

import sys

from animatediff.cli import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
