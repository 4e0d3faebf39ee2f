"""The command that fits the map of previews."""

import pytest

from scripts.fit_preview import main


@pytest.mark.slow
def test_it_prints_the_factors_and_both_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIMATEDIFF_DEFAULT_MODEL", "shapeworld")
    for arguments in ([], ["--prompt", "a red circle on a black background"]):
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "PreviewFactors("
        assert lines[-2].startswith("fitted: error ")
        assert lines[-1].startswith("the known factors: error ")
