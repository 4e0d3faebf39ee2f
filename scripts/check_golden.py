"""Compare this code with reference numbers: python -m scripts.check_golden DIR."""

import sys

from lab.golden.check import main

if __name__ == "__main__":
    sys.exit(main())
