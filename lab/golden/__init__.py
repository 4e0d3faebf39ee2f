"""Reference numbers: what this implementation is compared with, and how."""
