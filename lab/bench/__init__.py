"""Timings, each beside diffusers' in the same run: ``python -m scripts.bench``."""
