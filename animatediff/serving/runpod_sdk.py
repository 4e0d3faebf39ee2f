"""The parts of RunPod's SDK that the worker uses, with types.

Only this module, endpoint_client and handler.py import the SDK. It has no types of its
own, and writes a log of its own to stdout.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import runpod  # pyright: ignore[reportMissingTypeStubs]
from runpod import (  # pyright: ignore[reportMissingTypeStubs]
    http_client,
)
from runpod.serverless.modules import (  # pyright: ignore[reportMissingTypeStubs]
    rp_http,
    rp_logger,
)

_serverless = cast(Any, runpod.serverless)
_send_result = cast(Callable[..., Awaitable[None]], cast(Any, rp_http).send_result)


def start(config: dict[str, Any], arguments: Sequence[str]) -> None:
    """Take jobs until the process is stopped.

    The SDK looks at ``config`` again after each job. It reads its command line
    ``arguments`` from sys.argv, and from nowhere else.
    """
    sys.argv[1:] = arguments
    _serverless.start(config)


def register_fitness_check(check: Callable[[], None]) -> None:
    """Run ``check`` before the first job; RunPod replaces a worker that fails."""
    _serverless.register_fitness_check(check)


def set_log_level(level: str) -> None:
    """Set the level of the SDK's log.

    Below INFO it contains whole jobs and answers, prompts among them. The SDK's own
    ``set_level`` would add a line to the log.
    """
    rp_logger.RunPodLogger().level = level


def send_progress(job: Mapping[str, Any], update: Mapping[str, Any]) -> None:
    """Send ``update`` to RunPod, and return once it has arrived.

    The SDK's public ``progress_update`` sends on a thread that nobody can wait for, so
    an update could arrive after the job's output. This function sends the same request
    with the same functions. ``runpod.serverless`` does not export them: a test compares
    both requests, and fails when the SDK changes its own.
    """
    asyncio.run(_send_progress(job, update))


async def _send_progress(job: Mapping[str, Any], update: Mapping[str, Any]) -> None:
    session = cast(Any, http_client).AsyncClientSession()
    async with session:
        body = {"status": "IN_PROGRESS", "output": dict(update)}
        await _send_result(session, body, dict(job))
