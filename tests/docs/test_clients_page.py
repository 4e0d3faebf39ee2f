"""docs/clients.md names an action for each error code, and the true retries."""

import re

from animatediff.errors import ADVICE, JobCancelled, retryability
from tests.docs.pages import ROOT, prose

ERRORS = prose(ROOT / "docs" / "clients.md").partition("## Errors")[2]
ROWS = re.findall(r"^\| (`[A-Z_]+`.*?) \| (.*) \|$", ERRORS, re.MULTILINE)


def test_every_code_has_one_action() -> None:
    named = [code for codes, _ in ROWS for code in re.findall(r"`(\w+)`", codes)]
    assert sorted(named) == sorted(
        kind.code for kind in ADVICE if kind is not JobCancelled
    )


def test_only_errors_that_may_pass_are_sent_again() -> None:
    for codes, action in ROWS:
        for kind in ADVICE:
            if f"`{kind.code}`" in codes and retryability(kind) != "no":
                assert "again" in action, kind.code
