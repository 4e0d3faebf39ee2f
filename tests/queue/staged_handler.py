"""handler.py, of which a test can lengthen or break single phases: files named after
them in $STAGES_DIR say how.

Such a file holds a number of seconds to sleep, or the name of a class in
animatediff.errors or of a built-in exception to raise. It works once. An event
``stage`` on stderr tells that it was reached.
"""

import builtins
import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STAGES = Path(os.environ["STAGES_DIR"])


def staged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        file = STAGES / name
        if file.exists():
            what = file.read_text()
            file.unlink()
            print(
                json.dumps({"event": "stage", "stage": name}),
                file=sys.stderr,
                flush=True,
            )
            if what[0].isdigit():
                time.sleep(float(what))
            else:
                raise (getattr(errors, what, None) or getattr(builtins, what))(
                    "a test broke it"
                )
        return function(*args, **kwargs)

    return run


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from animatediff import errors
    from animatediff.engine import Engine
    from animatediff.pipeline import AnimationPipeline
    from animatediff.video import animations
    from animatediff.warm_models import WarmModels

    Engine.prepare = staged("prepare", Engine.prepare)
    WarmModels.load = staged("load", WarmModels.load)
    AnimationPipeline.decode_frames = staged("decode", AnimationPipeline.decode_frames)
    animations.write_gif = staged("write", animations.write_gif)
    runpy.run_path(str(ROOT / "handler.py"), run_name="__main__")
