"""Fetch the image's weights: python -m builder.fetch_models PROFILE.

The same as ``animatediff fetch``, for a stage of the image that holds nothing else of
the project.
"""

import sys
from collections.abc import Sequence

from animatediff.fetch import profiles

BUILD_HINT = (
    "A repository that needs a token gets it while an image is built by"
    " --secret id=hf_token."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code of ``animatediff fetch``."""
    code = profiles.main(arguments, "python -m builder.fetch_models")
    if code == 1:
        profiles.show(BUILD_HINT)
    return code


if __name__ == "__main__":
    sys.exit(main())
