"""``animatediff serve``: the worker behind the local HTTP API of RunPod's SDK."""

import argparse
from collections.abc import Sequence
from functools import cache

from ..settings import Settings


def main(arguments: Sequence[str] | None = None, prog: str = "serve") -> int:
    """Serve jobs until the process is stopped."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Serve RunPod's HTTP API on this machine."
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    options = parser.parse_args(arguments)
    _serve(options.host, options.port)
    return 0


def _serve(host: str, port: int) -> None:
    from schemas import parse_job_input, render_job_output

    from ..serving.runpod_worker import build_worker, serve

    @cache
    def worker():
        return build_worker(Settings.from_env(), parse_job_input, render_job_output)

    api = ("--rp_serve_api", "--rp_api_host", host, "--rp_api_port", str(port))
    serve(worker, api)
