"""The server of the page: where it listens, who may come in, and which files it has."""

from dataclasses import dataclass
from typing import Any

from ..desk import Desk
from .build import build
from .toolkit import HEAD, STYLE, gr

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Listening:
    """Where the page listens. ``auth`` is a user and a password; ``upload`` bytes."""

    host: str
    port: int
    auth: tuple[str, str] | None
    queue: int
    upload: int


def serve(desk: Desk, model: str, where: Listening) -> None:
    """Serve the page until the process is stopped.

    Of the files on this machine, only those of the output folder are served.
    """
    desk.folder.mkdir(parents=True, exist_ok=True)
    page = build(desk, model)
    page.queue(max_size=4 * where.queue + 40, default_concurrency_limit=None)
    page.launch(
        server_name=where.host,
        server_port=where.port,
        auth=where.auth,
        max_file_size=where.upload,
        allowed_paths=[str(desk.folder.absolute())],
        app_kwargs={"middleware": _middleware(where.host)},
        css=STYLE,
        head=HEAD,
        theme=_theme(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        share=False,
        mcp_server=False,
        enable_monitoring=False,
    )


def _theme() -> Any:
    """Gradio's theme with the fonts of this machine, and text that is easy to read."""
    sans = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue="indigo", neutral_hue="slate", font=sans, font_mono=["monospace"]
    )
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def _middleware(host: str) -> list[Any]:
    """Refuse requests for another host name, where only this machine may come.

    A page elsewhere may let its own name lead here, and would then read this page.
    """
    if host not in LOOPBACK:
        return []
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK[:2], "[::1]"])]
