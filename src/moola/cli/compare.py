"""The command that compares two versions of any model."""

from __future__ import annotations

from pathlib import Path

import typer

from moola.cli.console import console, print_json, print_report, progress_bars
from moola.cli.options import AsJson, LedgerUrl, SigningKey

_LIMITS = "What a version may use"
_EVIDENCE = "Evidence"


def compare(
    candidate: str = typer.Argument(..., help="Version, such as churn/7 or churn@challenger."),
    other: str = typer.Argument(
        "@production", help="What it is held against: churn/5, or an alias of the same model."
    ),
    data: Path = typer.Option(..., help="Parquet or CSV file of rows neither was trained on."),
    target: str = typer.Option(..., help="Column of the true values."),
    group: str = typer.Option("", help="Column: rows of one customer, patient, shop."),
    time: str = typer.Option("", help="Column: rows follow each other in time."),
    metric: str = typer.Option(
        "log_loss",
        help="log_loss, brier, accuracy, mae, mse, pinball:0.9 or module:function(y, answers).",
    ),
    margin: float = typer.Option(
        0.0, help="Above 0: is it at most this much worse? 0: is it better?"
    ),
    html: Path | None = typer.Option(None, help="Write a page about it."),
    seconds: int = typer.Option(600, help="Seconds.", rich_help_panel=_LIMITS),
    memory_mib: int = typer.Option(4096, help="Memory in MiB.", rich_help_panel=_LIMITS),
    attest: bool = typer.Option(
        False,
        "--attest",
        help="Sign the result, so that rules may ask for it.",
        rich_help_panel=_EVIDENCE,
    ),
    key: Path | None = SigningKey,
    ledger: str = LedgerUrl,
    as_json: bool = AsJson,
) -> None:
    """Compare two versions of any MLflow model, row by row, and say whether one is better.

    Each version answers the same rows in a process of its own, without network, keys or files to
    write. Rows may be independent, belong together (`--group`) or follow each other in time
    (`--time`); the interval of the difference says so. What depends on luck is "not shown".

    Example: `moola compare churn/7 @production --data eval.parquet --target y --group customer`
    """
    import moola.steps.compare
    from moola.promotion.answers.ask import AnswerLimits

    with progress_bars(quiet=as_json) as report:
        outcome = moola.steps.compare.compare_and_note(
            candidate,
            other,
            data=data,
            attests=attest,
            key=key,
            ledger_url=ledger or None,
            target=target,
            group=group or None,
            time=time or None,
            metric=metric,
            margin=margin,
            limits=AnswerLimits(seconds=seconds, memory_mib=memory_mib),
            tell=lambda line: report(line, 1, 1),
        )
    if html is not None:
        html.write_text(outcome.page())
    result = outcome.comparison
    if as_json:
        print_json(result.to_dict())
        return
    worth = f"{result.clusters} clusters, " if result.clusters else ""
    worth += (
        f"worth {result.effective_rows:.0f} independent ones, " if result.effective_rows else ""
    )
    named = f" ({result.other_alias})" if result.other_alias else ""
    look = f"look {result.looks} at these data"
    if not outcome.counted:
        look = "a look that is not counted: no key signs here (`moola guard init`)"
    rows = {
        "Versions": f"{result.model}/{result.version} against "
        f"{result.other_model}/{result.other_version}{named}",
        "Rows": f"{result.rows:,}, {worth}{look}",
        f"Mean {result.metric}": f"{result.loss:.5g} against {result.other_loss:.5g}",
        "Difference": f"{_figure(result.estimate)}, {100 * result.level:.4g} % interval "
        f"[{_figure(result.low)}, {_figure(result.high)}]; below 0 the candidate is better",
        "Detectable": f"{_figure(result.minimum_detectable)}, four times in five",
        "Verdict": result.verdict + (f" within {result.margin:g}" if result.margin else ""),
    }
    if result.reason:
        rows["Because"] = result.reason
    if result.not_cut:
        rows["Not cut off"] = f"{', '.join(result.not_cut)}: the kernel does not allow it here"
    print_report("COMPARISON", {"RESULT": rows})
    if html is not None:
        console().print(f"Page: {html}")


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:+.5g}"
