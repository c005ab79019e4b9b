"""Commands for any registered model: guard init and check, attest, approve, evidence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from moola.cli.console import console, print_json, table
from moola.cli.options import AsJson, Command, LedgerUrl, SigningKey

if TYPE_CHECKING:
    from moola.promotion.aliases.proof import AliasAnswer
    from moola.promotion.evidence.predicates import SuiteRun

app = typer.Typer(
    no_args_is_help=True,
    help="Guard aliases of any registered model: rules in .moola/policy.yaml, evidence by "
    "`moola attest`, `moola compare` and `moola approve`.",
)
Target = typer.Argument(..., help="MODEL/VERSION or MODEL@ALIAS, such as churn/7.")


@app.command(cls=Command)
def init(
    backend_store_uri: str = typer.Option(
        "", help="Address of the server or database; empty: MLFLOW_TRACKING_URI, else ./mlflow.db."
    ),
    as_json: bool = AsJson,
) -> None:
    """Read the registry, write a policy in report mode and a signing key. Nothing is refused yet.

    Example: `moola guard init --backend-store-uri postgresql://mlflow@127.0.0.1/mlflow`
    """
    import moola.steps.guard

    begun = moola.steps.guard.begin(backend_store_uri=backend_store_uri or None)
    if as_json:
        print_json(dataclasses.asdict(begun))
        return
    out = console()
    used = ", ".join(f"{alias} {count}" for alias, count in begun.aliases.items())
    counted = f"{begun.models} models" if begun.models else "no models yet"
    out.print(f"{counted}; {used or 'no aliases'}; nothing is refused yet")
    verb = "written" if begun.made_policy else "was there, unchanged"
    out.print(f"Policy: {begun.policy} ({verb}); the key of signer {begun.signer}: {begun.key}")
    out.print("Next: `moola server` guards, `moola guard check MODEL/VERSION` says what is missing")


@app.command(cls=Command)
def check(
    version: str = Target,
    alias: str = typer.Option("", help="Only this alias; empty: every alias that rules name."),
    ledger: str = LedgerUrl,
    as_json: bool = AsJson,
) -> None:
    """Say what each guarded alias requires of a version: met or not, and the next command.

    Exit code 1 where a rule that refuses is not met.

    Example: `moola guard check churn/7 --alias champion`
    """
    import moola.steps.guard
    from moola.errors import PromotionRefused

    answers = moola.steps.guard.check(version, alias=alias or None, ledger_url=ledger or None)
    if as_json:
        print_json({"version": version, "aliases": [dataclasses.asdict(a) for a in answers]})
    else:
        _print_answers(version, answers)
    refused = [
        f"{answer.alias}: {one.why}"
        for answer in answers
        for one in answer.requirements
        if one.met is False and one.mode == "enforce"
    ]
    if refused:
        raise PromotionRefused(
            f"{version} may not have {refused[0]}",
            limit="every requirement met",
            remedy=f"See `moola guard check {version}`",
        )


def _print_answers(version: str, answers: list[AliasAnswer]) -> None:
    from moola.promotion.ledger.entry import printable

    out = console()
    if not any(answer.requirements for answer in answers):
        out.print(f"{version}: no rule is about it, so every alias is free")
    words = {True: "met", False: "not met", None: "asked by moola promote"}
    next_ones: list[str] = []
    for answer in answers:
        if not answer.requirements:
            continue
        rows = table("rule", "mode", "requires", "", "because")
        for one in answer.requirements:
            shown = (one.rule, one.mode, one.requirement, words[one.met], one.why)
            rows.add_row(*map(printable, shown))
            if one.remedy and one.met is not True:
                next_ones.append(one.remedy)
        holder = answer.champion
        who = f"version {holder} holds it" if holder else "nobody holds it"
        out.print(f"{version} for alias {answer.alias} ({who}):")
        out.print(rows)
        for why in answer.ignored:
            out.print(f"  left out: {printable(why)}")
    for command in dict.fromkeys(next_ones):
        out.print(f"Next: {printable(command)}", soft_wrap=True)


def attest(
    version: str = Target,
    command: list[str] = typer.Argument(None, help="After --: the command that tests it."),
    metrics: Path | None = typer.Option(
        None, help="JSON of an evaluation: name to number, or to estimate, low and high."
    ),
    data: list[Path] = typer.Option([], help="Data file that was read; its SHA-256 is attested."),
    junit: Path | None = typer.Option(
        None, help="JUnit file that the command writes by itself; pytest is asked for one."
    ),
    timeout: float = typer.Option(3600.0, help="Seconds after which the command is stopped."),
    key: Path | None = SigningKey,
    ledger: str = LedgerUrl,
    as_json: bool = AsJson,
) -> None:
    """Sign what a test command or an evaluation found about a version.

    The command runs without the signing key in its environment, with the version's address in
    MOOLA_MODEL_URI. A failed run attests a failure and ends with exit code 1.

    Example: `moola attest churn/7 -- pytest tests/model`

    Example: `moola attest churn/7 --metrics eval.json --data eval.parquet`
    """
    import moola.steps.attest
    from moola.errors import BadInput, PromotionRefused

    if bool(command) == bool(metrics):
        raise BadInput(
            "nothing to attest" if not command else "both a command and metrics are given",
            limit="a command after --, or --metrics FILE",
        )
    url = ledger or None
    if metrics is not None:
        values = moola.steps.attest.attest_metrics(
            version, metrics, data=data, key=key, ledger_url=url
        )
        if as_json:
            print_json(dataclasses.asdict(values))
        else:
            console().print(f"attested: {len(values.estimates)} metrics of {version}")
        return
    run = moola.steps.attest.attest_tests(
        version, command, junit=junit, seconds=timeout, key=key, ledger_url=url
    )
    if as_json:
        print_json(dataclasses.asdict(run))
    else:
        console().print(f"attested: {_run_in_words(run)} of {version}")
    if not run.passed:
        raise PromotionRefused(
            f"the tests of {version} failed, which is attested",
            limit="exit code 0",
            remedy="Mend the model or its tests, and attest again",
        )


def _run_in_words(run: SuiteRun) -> str:
    end = "stopped" if run.exit_code is None else f"exit code {run.exit_code}"
    counts = "" if run.passed_tests is None else f", {run.passed_tests} passed"
    failed = f", {run.failed_tests} failed" if run.failed_tests else ""
    return f"a test run ({end}{counts}{failed}, {len(run.files)} files, {run.seconds:.1f} s)"


def approve(
    version: str = Target,
    reason: str = typer.Option(..., help="Why; is signed."),
    key: Path | None = SigningKey,
    ledger: str = LedgerUrl,
    as_json: bool = AsJson,
) -> None:
    """Approve a version with your own key, which rules know by the name of its public half.

    Example: `moola approve churn/7 --reason "reviewed the drop in recall" --key ~/.keys/ann.pem`
    """
    import moola.steps.guard

    digest = moola.steps.guard.approve(version, reason=reason, key=key, ledger_url=ledger or None)
    if as_json:
        print_json({"digest": digest})
    else:
        console().print(f"approved: {version}, attestation {digest[:16]}")


def evidence(
    action: str = typer.Argument(..., help="export."),
    version: str = Target,
    output: Path = typer.Option(Path("evidence"), help="Folder to write."),
    ledger: str = LedgerUrl,
    as_json: bool = AsJson,
) -> None:
    """Write what is attested about a version as DSSE envelopes that strangers can check.

    Example: `moola evidence export churn/7 --output churn-7`
    """
    import moola.steps.guard
    from moola.errors import BadInput

    if action != "export":
        raise BadInput(f"action is {action!r}", limit="export")
    bundle = moola.steps.guard.export(version, output, ledger_url=ledger or None)
    if as_json:
        print_json(dataclasses.asdict(bundle))
        return
    console().print(f"{len(bundle.envelopes)} attestations of {version} in {bundle.folder}")
    for why in bundle.ignored:
        console().print(f"  left out: {why}")
