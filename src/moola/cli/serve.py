"""Commands that serve: serve (the model), server (guarded MLflow) and ui."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from moola.cli.console import console
from moola.cli.options import Device, LedgerUrl, Name
from moola.config import names
from moola.config.serving import ENV_TOKEN, ServeConfig

_DEFAULTS = ServeConfig()


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("serve")(serve)
    app.command("server")(server)
    app.command("ui")(ui)


def serve(
    name: str = Name,
    version: str = typer.Option(
        "", help="Serve this version, unproven, instead of the one in Production."
    ),
    host: str = typer.Option(_DEFAULTS.host, help="Address to listen on."),
    port: int = typer.Option(_DEFAULTS.port),
    workers: int = typer.Option(_DEFAULTS.workers, help="Processes."),
    device: str = Device,
    threads: int = typer.Option(_DEFAULTS.threads, help="Threads of torch in each process."),
    max_body_mib: float = typer.Option(_DEFAULTS.max_body_mib, help="Larger: 413."),
    max_windows: int = typer.Option(_DEFAULTS.max_windows, help="Most windows a request."),
    timeout: float = typer.Option(_DEFAULTS.timeout_seconds, help="Seconds a request may take."),
    poll: float = typer.Option(_DEFAULTS.poll_seconds, help="Seconds between looks at Production."),
    log_predictions: Path | None = typer.Option(
        None, help="Folder to keep answers and features in, for `moola drift`."
    ),
    ledger: str = LedgerUrl,
) -> None:
    """Serve the proven version in Production, and follow promotions while serving.

    Signature and files are verified before a version answers. /invocations, /ping and /version are
    those of `mlflow models serve`; besides, Arrow, npz and base64 bodies, and /metrics. With
    MOOLA_SERVE_TOKEN set, callers must send it as bearer token.

    Example: `moola serve --port 5001 --log-predictions served`
    """
    from moola.steps.serve import serve as run

    config = ServeConfig(
        name=name,
        version=version or None,
        ledger_url=ledger or None,
        host=host,
        port=port,
        workers=workers,
        device=device,
        threads=threads,
        max_body_mib=max_body_mib,
        max_windows=max_windows,
        timeout_seconds=timeout,
        poll_seconds=poll,
        log_predictions=str(log_predictions) if log_predictions else None,
    )
    guarded = "with a bearer token" if os.environ.get(ENV_TOKEN) else "without a token"
    console().print(f"{name} on http://{host}:{port} once it is verified, {guarded}")
    run(config)


def server(
    backend_store_uri: str = typer.Option(
        names.DEFAULT_TRACKING_URI, help="SQLite or PostgreSQL: runs, registry and ledger."
    ),
    artifacts_destination: str = typer.Option(names.ARTIFACT_ROOT, help="Folder or bucket."),
    host: str = typer.Option("127.0.0.1", help="Address to listen on."),
    port: int = typer.Option(5000),
    workers: int = typer.Option(1),
    policy: Path | None = typer.Option(None, help="YAML of the promotion policy."),
    auth: bool = typer.Option(False, help="Users must log in (MLflow's basic-auth)."),
) -> None:
    """Start MLflow's server with the guard: nothing unproven reaches Production.

    Example: `moola server --backend-store-uri postgresql://moola@127.0.0.1/moola`
    """
    from moola.promotion.guard import server_command

    command = server_command(
        project=Path(),
        backend_store_uri=backend_store_uri,
        artifacts_destination=artifacts_destination,
        host=host,
        port=port,
        workers=workers,
        policy_file=policy,
        auth=auth,
    )
    console().print(f"Guarded MLflow server on http://{host}:{port}, with its history at /moola")
    for rule in command.enforces:
        console().print(f"  - {rule}", markup=False)
    os.execve(command.argv[0], list(command.argv), {**os.environ, **command.env})


def ui(
    page: str = typer.Argument("gates", help="gates: where the gates of evaluations are compared."),
) -> None:
    """Print the addresses of the pages where gates are compared, and open the newest in a browser.

    The browser is opened from a terminal only. The page needs `make ui` or `moola server` running,
    or a tracking server.

    Example: `moola ui gates`
    """
    import sys
    import webbrowser

    from moola.errors import ConfigError
    from moola.steps.pages import gate_pages

    if page != "gates":
        raise ConfigError(f"page is {page!r}", limit="gates")
    pages = gate_pages()
    for title, url in pages:
        console().print(f"{title:<30} {url}", markup=False)
    if sys.stdout.isatty():
        newest = next(url for title, url in pages if title.startswith("gates of"))
        webbrowser.open(newest)
