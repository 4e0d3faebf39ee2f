"""The fake hub of the download tests, and manifests for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from test_downloads import hub as hub  # the fixture

from builder.manifest import Manifest, Row, write_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    def make(*rows: Row) -> Path:
        path = tmp_path / "manifest.json"
        write_manifest(
            Manifest({"small": "for tests", "all": "everything"}, rows), path
        )
        return path

    return make
