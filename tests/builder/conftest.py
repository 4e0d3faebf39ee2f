"""The hub on loopback, and tables of files for it."""

from fake_hub import table as table  # fixtures
from web_site import hub as hub
