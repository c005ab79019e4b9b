"""The decision in writing: a Markdown page for people, a JSON line for machines."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moola.hashing import canonical_json
from moola.markdown import markdown_table
from moola.promotion.decision import Decision


def decision_record(decision: Decision, gate_report: Mapping[str, Any]) -> str:
    """Return the "Production Model Decision Log" of a promotion as Markdown.

    Parameters
    ----------
    decision
        The decision, allowed or not.
    gate_report
        The gate report of the version.

    Returns
    -------
    str
        Markdown.
    """
    candidate, data = gate_report["candidate"], gate_report["data"]
    sections = [
        "# Production Model Decision Log",
        _headline(decision),
        "## Model\n\n" + _table(_model_rows(decision, candidate)),
        "## Validated performance\n\n" + _performance(decision, gate_report),
        "## Configuration\n\n"
        + _table(
            {**{k: data[k] for k in sorted(data)}, "thresholds": gate_report["thresholds_sha256"]}
        ),
        "## Gates\n\n" + _gates(gate_report, decision),
        "## Rationale\n\n" + _rationale(decision, gate_report),
        "## Risks\n\n" + _bullets(_risks(decision, gate_report)),
        "## Next steps\n\n" + _bullets(_next_steps(decision)),
    ]
    return "\n\n".join(sections) + "\n"


def append_result(path: Path, decision: Decision, gate_report: Mapping[str, Any]) -> None:
    """Append the decision as one line to ``experiment_results.jsonl``; safe among processes."""
    line = canonical_json(
        {
            "action": decision.action,
            "allowed": decision.allowed,
            "champion_before": decision.champion_before,
            "decided_at": decision.decided_at,
            "dry_run": decision.dry_run,
            "evidence_digest": decision.evidence_digest,
            "gates": {str(g["gate"]): g["verdict"] for g in gate_report["gates"]},
            "ledger_seq": decision.ledger_seq,
            "model": gate_report["candidate"]["model"],
            "name": decision.name,
            "promotion_gate": decision.promotion_gate,
            "reasons": list(decision.reasons),
            "run_id": gate_report["candidate"]["run_id"],
            "test_looks": decision.test_looks,
            "version": decision.version,
            "who": decision.who,
        }
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.write(line + "\n")


def _headline(decision: Decision) -> str:
    verb = "was promoted to Production" if decision.allowed else "was **refused**"
    if decision.allowed and decision.dry_run:
        verb = "may be promoted as far as the gates go (dry run)"
    return f"{decision.decided_at}: version {decision.version} of {decision.name} {verb}."


def _model_rows(decision: Decision, candidate: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "registered model": f"{decision.name}, version {decision.version}",
        "architecture": candidate["model"],
        "run": candidate["run_id"],
        "SHA-256 of the files": candidate["model_sha256"],
        "pretrained encoder": "yes" if candidate["uses_encoder"] else "no",
        "augmented or synthetic windows": "yes" if candidate["uses_synthetic"] else "no",
        "replaces": f"version {decision.champion_before}" if decision.champion_before else "nobody",
        "decided by": decision.who,
        "evidence": decision.evidence_digest or "none",
        "ledger entry": decision.ledger_seq or "none",
    }


def _all_gates(report: Mapping[str, Any], decision: Decision) -> list[Mapping[str, Any]]:
    """Return the gates of the evaluation and, where it was asked, the promotion gate."""
    return [*report["gates"], *([decision.promotion_gate] if decision.promotion_gate else [])]


def _performance(decision: Decision, report: Mapping[str, Any]) -> str:
    rows = {}
    for gate in _all_gates(report, decision):
        for name, value in _flat(gate.get("figures") or {}):
            rows[f"gate {gate['gate']}: {name}"] = value
    return _table(rows) if rows else "No figures."


def _gates(report: Mapping[str, Any], decision: Decision) -> str:
    rows = [
        (
            f"{gate['gate']} {gate.get('name', '')}".strip(),
            gate.get("question", ""),
            gate["verdict"],
            "; ".join(map(str, gate.get("reasons") or [])),
        )
        for gate in _all_gates(report, decision)
    ]
    return markdown_table(("gate", "question", "verdict", "why"), rows)


def _rationale(decision: Decision, report: Mapping[str, Any]) -> str:
    passed = [str(g["gate"]) for g in report["gates"] if g["verdict"] == "passed"]
    lines = [f"Gates passed: {', '.join(passed) or 'none'}."]
    if decision.promotion_gate is not None:
        beside = decision.champion_before
        against = f"version {beside}" if beside else "the class prior, as nothing is in Production"
        lines.append(
            f"The promotion gate is {decision.promotion_gate['verdict']} on the locked test windows"
            f", scored beside {against}; look number {decision.test_looks} at this test set."
        )
        lines += [f"{_sentence(r)}" for r in decision.promotion_gate.get("reasons") or []]
    lines += [f"Refused because {_sentence(r)}" for r in decision.reasons]
    return " ".join(lines)


def _risks(decision: Decision, report: Mapping[str, Any]) -> list[str]:
    num_windows = report["data"].get("num_windows", "an unstated number of")
    risks = [f"The figures rest on {num_windows} labelled windows of one market and period."]
    for gate in report["gates"]:
        if gate["verdict"] != "passed":
            why = "; ".join(map(str, gate.get("reasons") or ["no reason given"]))
            risks.append(f"Gate {gate['gate']} is {gate['verdict']}: {_sentence(why)}")
    if decision.test_looks is not None and decision.test_looks > 1:
        risks.append(
            f"The test set has been looked at {decision.test_looks} times; "
            "each look makes its verdict a little less independent."
        )
    return risks


def _next_steps(decision: Decision) -> list[str]:
    if not decision.allowed:
        return ["Production stays as it was.", "Mend what the reasons name, then evaluate again."]
    if decision.dry_run:
        return ["Run the promotion without dry run to look at the locked test windows."]
    back = decision.champion_before
    steps = ["Watch calibration and the share of each class on new windows."]
    if back:
        steps.append(f"If it disappoints: `moola rollback --to {back}`.")
    return steps


def _flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def _table(rows: Mapping[str, Any]) -> str:
    return markdown_table(("", ""), rows.items())


def _sentence(text: Any) -> str:
    return " ".join(str(text).split()).rstrip(".") + "."


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
