"""Commands around the project, each run by ``python -m scripts.NAME``."""
