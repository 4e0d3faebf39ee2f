"""Train one stage: python train.py --config configs/training/....yaml [key=value]."""

import sys

from animatediff.training.command import main

if __name__ == "__main__":
    sys.exit(main())
