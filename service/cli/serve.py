"""`weighin serve`: run the HTTP service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.settings import settings_with
from service.settings import environment_warnings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one [default: 8000]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for state [default: data]")] = None,
) -> None:
    """Run the HTTP service. Every setting can also be set by an environment variable, WEIGHIN_<NAME>."""
    settings = settings_with(warn=False, host=host, port=port, data_dir=data_dir)
    # imported here, because the import of the web framework takes half a second
    import structlog

    from service.logs import configure_logging
    from service.server import serve as run_server

    configure_logging(settings.log_format, settings.log_level)
    log = structlog.get_logger(__name__)
    for warning in environment_warnings():
        log.warning(warning)
    run_server(settings)
