"""Tables of files."""

from fake_hub import table as table  # a fixture
