"""``animatediff app``: a page in the browser, for the engine here or an endpoint."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..errors import AssetError, ConfigurationError
from ..settings import Settings

if TYPE_CHECKING:
    from ..app.backends import Backend
    from ..app.desk import Desk

KEY = "RUNPOD_API_KEY"
"""The environment variable with the key of endpoints."""


def main(arguments: Sequence[str] | None = None, prog: str = "app") -> int:
    """Serve the page until the process is stopped. Raises ConfigurationError."""
    options = _parser(prog).parse_args(arguments)
    from ..app.page.launch import Listening, serve

    settings = Settings.from_env()
    where = Listening(
        options.host,
        options.port,
        _auth(options.auth),
        options.queue_size,
        options.upload_mb * 1_000_000,
    )
    serve(_desk(options, settings), _model(settings), where)
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Open a page that makes clips, on this machine."
    )
    add = parser.add_argument
    add(
        "--host", default="127.0.0.1", help="address to listen on; default: %(default)s"
    )
    add("--port", type=int, default=7860, help="default: %(default)s")
    add(
        "--endpoint",
        metavar="ID",
        help=f"make the clips on this RunPod endpoint; its key is in {KEY}",
    )
    add("--api", default="", metavar="URL", help="another server with RunPod's routes")
    add("--auth", metavar="USER:PASSWORD", help="ask for this user and password")
    add(
        "--queue-size",
        type=int,
        default=16,
        choices=range(1, 33),
        metavar="1..32",
        help="clicks that may wait; default: %(default)s",
    )
    add(
        "--upload-mb",
        type=int,
        default=50,
        help="largest file that may be uploaded; default: %(default)s",
    )
    return parser


def _auth(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    user, _, password = text.partition(":")
    if not user or not password:
        raise ConfigurationError("--auth takes USER:PASSWORD", setting="--auth")
    return user, password


def _desk(options: argparse.Namespace, settings: Settings) -> "Desk":
    from ..app.desk import Desk
    from ..app.installed import look, published
    from ..app.studio import Studio

    studio = Studio(_backend(options, settings), options.queue_size)
    seen = published if options.endpoint else partial(look, settings.models_dir)
    return Desk(studio, settings.output_dir.absolute(), seen)


def _backend(options: argparse.Namespace, settings: Settings) -> "Backend":
    from schemas import parse_job_input, render_job_output

    if options.endpoint is None:
        from ..app.backends import EngineBackend

        engine = EngineBackend(settings, parse_job_input, render_job_output)
        engine.warm()
        return engine
    from ..app.endpoint import EndpointBackend
    from ..serving.endpoint_client import EndpointClient

    client = EndpointClient(options.endpoint, _key(), options.api)
    return EndpointBackend(client, settings.output_dir.absolute(), parse_job_input)


def _key() -> str:
    key = os.environ.get(KEY, "")
    if not key:
        raise ConfigurationError(
            f"{KEY} is not set: it has the endpoint's key", setting=KEY
        )
    return key


def _model(settings: Settings) -> str:
    """The base model of jobs that name none, as far as this machine knows."""
    from ..fetch.assets import Assets

    try:
        return settings.default_model or Assets(settings).first_base_model()
    except AssetError:
        return ""
