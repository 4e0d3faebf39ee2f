"""Count a step's kernels, work, traffic and memory: python -m scripts.count_step."""

from lab.counting.step import main

if __name__ == "__main__":
    main()
