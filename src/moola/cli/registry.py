"""Commands about versions: promote, rollback, challenger, history, verify, keys."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from moola.cli.console import console, print_json, table
from moola.cli.options import AsJson, DataRoot, LedgerUrl, Name, SigningKey
from moola.cli.reports import print_decision
from moola.config import names

if TYPE_CHECKING:
    from moola.promotion.decision import Decision
    from moola.promotion.verify import Verification


_GLASS = "Breaking the glass"


def promote(
    target: str = typer.Argument("", help="MODEL/VERSION of any registered model, as churn/7."),
    version: str = typer.Option("newest", help="Version to promote."),
    name: str = Name,
    alias: str = typer.Option(names.ALIAS_PRODUCTION, help="Alias that it shall get."),
    break_glass: bool = typer.Option(
        False,
        help="Move it without what its rules require, if the policy lets you; say why.",
        rich_help_panel=_GLASS,
    ),
    reason: str = typer.Option(
        "", help="Why the glass is broken; goes into the ledger.", rich_help_panel=_GLASS
    ),
    key: Path | None = SigningKey,
    dry_run: bool = typer.Option(False, help="Check all but the locked test windows."),
    fresh_windows_only: bool = typer.Option(
        False, help="Judge by test windows alone that nobody has looked at, under any name."
    ),
    ledger: str = LedgerUrl,
    thresholds: Path | None = typer.Option(
        None, help="YAML file over Moola's own thresholds, as `moola evaluate` was given it."
    ),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Move Production, or another alias, to a version, if the rules for it are met.

    Of a model that `moola train` made, its gates and the locked test windows decide; of any other
    model what is attested about it. Alias `production` and stage `Production` move together, the
    replaced version is archived, and the decision is written down. A refusal ends with exit code 1
    and its reason.

    Example: `moola promote --version 2`

    Example: `moola promote churn/7 --alias champion`
    """
    if alias != names.ALIAS_PRODUCTION and not target:
        from moola.errors import BadInput

        raise BadInput(
            "--alias is given without MODEL/VERSION",
            limit="a version, such as churn/7",
            remedy=f"Put it first: `moola promote churn/7 --alias {alias}`",
        )
    if target and _by_attestations(target, alias, ledger):
        import moola.steps.guard

        decision = moola.steps.guard.promote(
            target,
            alias=alias,
            dry_run=dry_run,
            break_glass=break_glass,
            reason=reason or None,
            key=key,
            ledger_url=ledger or None,
        )
        _tell(decision, as_json=as_json)
        return
    import moola.steps.promote
    from moola.config.evaluation import Thresholds

    options = {"--break-glass": break_glass, "--reason": bool(reason), "--key": key is not None}
    _require_unused(options, "a model whose gates decide")
    if target:
        import moola.steps.guard

        production, version = moola.steps.guard.production_of(target, ledger_url=ledger or None)
        name = production.name
    summary = moola.steps.promote.promote(
        version=None if version == "newest" else version,
        name=name,
        dry_run=dry_run,
        fresh_windows_only=fresh_windows_only,
        ledger_url=ledger or None,
        data_root=data_root,
        thresholds=Thresholds.load(thresholds) if thresholds else None,
    )
    _tell(summary.decision, as_json=as_json, record=summary.record)


def rollback(
    reason: str = typer.Option(..., help="Why; goes into the ledger."),
    to: str = typer.Option("", help="Version; empty: the one that held Production before."),
    name: str = Name,
    alias: str = typer.Option("", help="Alias of a model that is guarded by attestations."),
    key: Path | None = SigningKey,
    dry_run: bool = typer.Option(False, help="Verify, and change nothing."),
    ledger: str = LedgerUrl,
    as_json: bool = AsJson,
) -> None:
    """Put back a version that held Production before, after verifying it again.

    With `--alias` it is an alias of any model, and the order is signed.

    Example: `moola rollback --reason "drift since Monday"`

    Example: `moola rollback --name churn --alias champion --reason "drift since Monday"`
    """
    if alias:
        import moola.steps.guard

        decision = moola.steps.guard.rollback(
            name, alias=alias, to=to or None, reason=reason, ledger_url=ledger or None,
            dry_run=dry_run, key=key,
        )  # fmt: skip
        _tell(decision, as_json=as_json)
        return
    _require_unused({"--key": key is not None}, "a rollback without --alias")
    import moola.steps.registry

    decision = moola.steps.registry.rollback(
        name=name, to=to or None, reason=reason, ledger_url=ledger or None, dry_run=dry_run
    )
    _tell(decision, as_json=as_json)


def challenger(
    version: str = typer.Option(..., help="Version that shall challenge the champion."),
    name: str = Name,
    ledger: str = LedgerUrl,
    as_json: bool = AsJson,
) -> None:
    """Give alias `challenger` and stage `Staging` to a version.

    Example: `moola challenger --version 3`
    """
    from moola.steps.registry import challenge

    decision = challenge(name=name, version=version, ledger_url=ledger or None)
    _tell(decision, as_json=as_json)


def history(
    name: str = Name,
    at: str | None = typer.Option(None, help="Time, UTC unless it says: who was it then?"),
    checkpoint: Path | None = typer.Option(
        None, help="File in which you keep how far the ledger went: compared, then written."
    ),
    ledger: str = LedgerUrl,
    as_json: bool = AsJson,
) -> None:
    """Show who held Production when, and every decision; the ledger's chain is checked first.

    Example: `moola history --at 2026-01-31`
    """
    from moola.config.data import parse_utc
    from moola.promotion.ledger.entry import printable
    from moola.steps.registry import read_history

    when = parse_utc(at, "--at")
    past = read_history(name, at=when, ledger_url=ledger or None, checkpoint=checkpoint)
    if as_json:
        entries = [entry.to_dict() for entry in past.entries]
        notes = list(past.notes)
        print_json(
            {
                "champion": past.champion,
                "at": when,
                "entries": entries,
                "notes": notes,
                "holders": past.holders,
            }
        )
        return
    rows = table("seq", "time (UTC)", "event", "from", "to", "who", "reason")
    for entry in past.entries:
        words = (
            entry.at[:19],
            entry.event,
            entry.version_from or "-",
            entry.version_to or "-",
            entry.who,
            entry.reason,
        )
        rows.add_row(str(entry.seq), *map(printable, words))
    out = console()
    out.print(rows)
    for note in past.notes:
        out.print(f"  - {printable(note)}")
    moment = f"at {when:%Y-%m-%d %H:%M}" if when else "now"
    out.print(f"In Production {moment}: {past.champion or 'nothing'}")
    for alias, holder in past.holders.items():
        out.print(f"{printable(alias)} {moment}: {holder}")


def verify(name: str = Name, ledger: str = LedgerUrl, as_json: bool = AsJson) -> None:
    """Check the ledger's chain, every promotion's signature and files, and who holds Production.

    Example: `moola verify`
    """
    import moola.steps.registry
    from moola.errors import AuditError

    audit = moola.steps.registry.verify(name, ledger_url=ledger or None)
    if as_json:
        print_json(dataclasses.asdict(audit))
    else:
        _print_verification(audit)
    if audit.findings:
        raise AuditError(f"{len(audit.findings)} findings about {name}")


def _print_verification(verification: Verification) -> None:
    from moola.promotion.ledger.entry import printable

    out = console()
    head = (verification.head or "-")[:16]
    out.print(f"{verification.num_entries} ledger entries about {verification.name}, head {head}")
    out.print(f"In Production: {verification.champion or 'nothing'}")
    for finding in verification.findings:
        out.print(f"  - {printable(finding)}")
    if not verification.findings:
        out.print("chain, signatures, files and stages agree")
    for note in verification.notes:
        out.print(f"note: {printable(note)}")


def keys(
    make: bool = typer.Option(
        False, "--make", help="Make the gate runner's key, and trust it, if there is none."
    ),
    revoke: str = typer.Option("", help="Key id to revoke: nothing it signed counts any more."),
    ledger: str = LedgerUrl,
    as_json: bool = AsJson,
) -> None:
    """Show the keys whose signature counts, and which of them signs here.

    Example: `moola keys --revoke 1f0c...`
    """
    from moola.errors import ConfigError
    from moola.steps.registry import list_keys, make_key, revoke_key

    url = ledger or None
    if make and revoke:
        raise ConfigError("--make and --revoke are both given", limit="one of them")
    if revoke:
        key_ids = revoke_key(revoke, ledger_url=url)
    else:
        key_ids = make_key(ledger_url=url) if make else list_keys()
    if as_json:
        print_json(dataclasses.asdict(key_ids))
        return
    out = console()
    for identity in key_ids.trusted:
        name = key_ids.names.get(identity, identity)
        called = "" if name == identity else f"  {name}"
        out.print(identity + called + "  signs here" * (identity == key_ids.signing))
    if key_ids.signing is None:
        out.print("no key signs here; the gate runner's is made by moola keys --make")
    elif key_ids.signing not in key_ids.trusted:
        out.print(f"{key_ids.signing} signs here and is not trusted")


def _require_unused(options: dict[str, bool], what: str) -> None:
    """Raise BadInput for an option that cannot act."""
    from moola.errors import BadInput

    for option, is_given in options.items():
        if is_given:
            raise BadInput(f"{option} cannot act on {what}", remedy="Leave it out")


def _by_attestations(target: str, alias: str, ledger: str) -> bool:
    """Return whether attestations decide about an alias of a model, not the profile ohlc."""
    import moola.steps.guard

    answers = moola.steps.guard.check(target, alias=alias, ledger_url=ledger or None)
    required = [one.requirement for answer in answers for one in answer.requirements]
    return "profile: ohlc" not in required


def _tell(decision: Decision, *, as_json: bool, record: Path | None = None) -> None:
    if as_json:
        print_json({**dataclasses.asdict(decision), "record": record})
    else:
        print_decision(decision, record)
