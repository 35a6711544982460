"""The command `mt serve`."""

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from mt.cli.options import (
    BeamOption,
    CheckpointOption,
    DeviceOption,
    PrecisionOption,
    QuietOption,
    VerboseOption,
)
from mt.errors import PackageError

logger = logging.getLogger(__name__)

API_KEY_VARIABLE = "MT_API_KEY"


def serve(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR", help="directories that mt train made, or exports for CTranslate2"
        ),
    ],
    host: Annotated[
        str, typer.Option(help="address to listen on; 0.0.0.0: all addresses of this machine")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port to listen on; 0: any free one")
    ] = 5000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="file of API keys, one per line; each POST request then needs one of them  "
            f"[default: the key in the environment variable {API_KEY_VARIABLE}, if there is one]"
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="web site, such as https://example.org, that may use the API from its pages; "
            "*: all; may be given again",
        ),
    ] = None,
    max_chars: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="maximum number of characters in a request")
    ] = 10_000,
    max_waiting_chars: Annotated[
        int,
        typer.Option(
            min=1,
            max=1_000_000_000,
            help="maximum number of characters in all waiting requests; 503 beyond it",
        ),
    ] = 200_000,
    reports: Annotated[
        bool | None,
        typer.Option(
            "--reports/--no-reports",
            help="show the report and the attention page in each run directory to all who can "
            "reach the server  [default: yes for a local --host, if there are neither keys nor "
            "--allow-origin]",
        ),
    ] = None,
    beam_size: BeamOption = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Serve a page and an API that translate with one or several models.

    The API is LibreTranslate's, so its clients work. SIGTERM or Ctrl-C ends the server after the
    requests that it has accepted are answered.
    """
    _require_packages()
    from mt.serve.access import Access
    from mt.serve.app import make_app
    from mt.serve.models import load_models
    from mt.serve.server import is_local, open_socket, run_server, url_of
    from mt.serve.translation_queue import TranslationQueue

    access = Access(_api_keys(api_key_file), tuple(allow_origin or ()))
    with open_socket(host, port) as listener:
        if reports is None:
            reports = is_local(listener) and access == Access()
        models = load_models(
            run_dirs,
            checkpoint=checkpoint,
            device=device,
            precision=precision,
            beam_size=beam_size,
            shows_reports=reports,
        )
        queue = TranslationQueue(max_chars=max_waiting_chars)
        app = make_app(models, queue, access=access, max_chars=max_chars)
        # Clients can connect from now on, and wait until the server has started.
        listener.listen()
        shown = "; reports of the runs are shown" if reports else ""
        logger.info(f"{url_of(listener)}: {models.describe()}{shown}; Ctrl-C ends")
        run_server(app, listener)


def _require_packages() -> None:
    """Raise PackageError if the packages of the extra `serve` are missing."""
    try:
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise PackageError(
            f"mt serve: cannot import a package ({error}); install them with "
            "pip install -e '.[serve]'"
        ) from error


def _api_keys(path: Path | None) -> tuple[str, ...]:
    """Return the keys of a file, or the one in the environment. Raises DataError."""
    from mt.serve.access import check_keys, read_api_keys

    if path is not None:
        return read_api_keys(path)
    key = os.environ.get(API_KEY_VARIABLE, "")
    if not key:
        return ()
    check_keys([key], where=API_KEY_VARIABLE)
    return (key,)
