"""The status reports: what a run did, in words and figures, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moola.cli.console import console, figure, print_gates, print_report, styled, table
from moola.config import names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from moola.config.training import FinetuneConfig
    from moola.promotion.decision import Decision
    from moola.steps.evaluate import EvaluationSummary
    from moola.steps.finetune import FinetuneSummary
    from moola.steps.investigate import Investigation
    from moola.steps.pretrain import PretrainSummary

_POOLED = {"Log-loss": "log_loss", "ROC-AUC": "roc_auc", "Balanced accuracy": "balanced_accuracy"}


FEW_WINDOWS = 20  # with fewer no gate can give a verdict


def print_pretrain(summary: PretrainSummary) -> None:
    """Print what a pretraining run made."""
    result = summary.result
    best = result.history[result.kept_epoch]
    resumed = "" if result.resumed_at is None else f", resumed at {result.resumed_at + 1}"
    sections = {
        "RESULT": {
            "Run ID": summary.run_id,
            "Device": summary.device,
            "Windows": f"{len(result.train_rows):,} train, "
            f"{len(result.val_rows):,} held out (the latest)",
            "Epochs": f"{len(result.history)}, kept {result.kept_epoch + 1}{resumed}",
            summary.monitor: f"{best[summary.monitor]:.4f} on held-out windows",
            "Seconds": f"{summary.seconds:.1f}",
            "Encoder": summary.encoder,
            "SHA-256": summary.encoder_sha256,
        }
    }
    if summary.quality is not None:
        scored = {k.removeprefix("val_"): v for k, v in best.items() if k.endswith("_accuracy")}
        figures = {**scored, **summary.quality.figures}
        sections["HELD OUT"] = {k: f"{v:.4g}" for k, v in figures.items()}
        if summary.quality.error_rows:
            sections["MASKED ERROR"] = {
                row["part"]: f"{row['model']:.4f}, linear {row['linear']:.4f}, difference "
                f"{row['delta']:+.4f} [{row['delta_low']:+.4f}, {row['delta_high']:+.4f}]"
                for row in summary.quality.error_rows
            }
    print_report(summary.title.upper(), sections)


def pretrain_facts(summary: PretrainSummary) -> dict[str, Any]:
    """Return what a pretraining run made, JSON-ready."""
    result = summary.result
    return {
        "run_id": summary.run_id,
        "encoder": summary.encoder,
        "encoder_sha256": summary.encoder_sha256,
        "device": summary.device,
        "num_windows": {"train": len(result.train_rows), "val": len(result.val_rows)},
        "num_epochs": len(result.history),
        "kept_epoch": result.kept_epoch,
        "kept": result.history[result.kept_epoch],
        "resumed_at": result.resumed_at,
        "quality": summary.quality.figures if summary.quality else None,
        "seconds": summary.seconds,
    }


def finetune_facts(summary: FinetuneSummary) -> dict[str, Any]:
    """Return what a training run made, JSON-ready."""
    return {
        "run_id": summary.run_id,
        "run_name": summary.run_name,
        "name": summary.registered_as,
        "version": summary.version,
        "git": summary.git,
        "device": summary.device,
        "config": summary.config.to_dict(),
        "num_parameters": summary.num_parameters,
        "num_epochs": len(summary.result.history),
        "load_report": summary.result.load_report,
        "freeze_proof": summary.result.proof,
        "temperature": summary.calibration.temperature,
        "metrics": summary.metrics,
        "yardsticks": summary.yardsticks,
        "seconds": summary.seconds,
    }


def print_finetune(summary: FinetuneSummary) -> None:
    """Print the status report of a training run."""
    config, audit = summary.config, summary.audit
    counts = audit["counts"]
    version = f"{summary.registered_as} version {summary.version}" if summary.version else "no"
    figures = {**summary.metrics, **summary.yardsticks}
    metrics = {k: figure(v) for k, v in figures.items() if not k.startswith("f1_class")}
    print_report(
        "MOOLA TRAINING RUN",
        {
            "RUN": {
                "Run ID": summary.run_id,
                "Name": summary.run_name,
                "Git": summary.git,
                "Seed": config.seed,
                "Device": summary.device,
            },
            "MODEL": {
                "Name": config.in_words,
                "Parameters": f"{summary.num_parameters:,}",
            },
            "DATA & SPLIT": {
                "Labeled": f"{audit['labeled_version']} ({audit['labeled_sha256'][:12]})",
                "Split": f"{audit['split']} ({counts['purged']} windows purged)",
                "Train": f"{counts['train']} windows, augmentation {_augmentation(config)}",
                "Val": f"{counts['val']} windows{_few(counts['val'])}",
                "Test": f"{counts['test']} windows, locked",
                "Audit": f"{len(audit['checks'])} checks passed",
            },
            "PRETRAINED LOAD": _load_rows(config.pretrained_encoder, summary.result.load_report),
            "FREEZE": _freeze_rows(config.schedule, summary.result.proof),
            "HYPERPARAMETERS": _training_rows(summary),
            f"RESULTS (val, temperature {summary.calibration.temperature:.3f})": metrics,
            "REGISTERED": {"Version": version, "Seconds": f"{summary.seconds:.1f}"},
        },
    )


def _training_rows(summary: FinetuneSummary) -> dict[str, Any]:
    config, proof = summary.config, summary.result.proof
    if proof is None:
        return {"Fitted": "at once, with the model's own parameters; no epochs"}
    return {
        "Epochs": f"{len(summary.result.history)} of {config.epochs}, kept "
        f"{proof['kept_epoch'] + 1}",
        "Batch size": config.batch_size,
        "Learning rate": config.learning_rate,
        "Early stopping": f"patience {config.patience}" if config.patience else "off",
    }


def _few(num_windows: int) -> str:
    """Return a warning where figures of so few windows are mostly luck."""
    return "" if num_windows >= FEW_WINDOWS else ": too few to tell a model from luck"


def _augmentation(config: FinetuneConfig) -> str:
    used = {
        "temporal": config.use_temporal_aug,
        f"mixup {config.mixup_alpha:g}": config.mixup_alpha,
        f"cutmix {config.cutmix_alpha:g}": config.cutmix_alpha,
        f"{config.synthetic}": config.synthetic,
    }
    return ", ".join(word for word, on in used.items() if on) or "off"


def _load_rows(encoder: str | None, load: Mapping[str, Any] | None) -> dict[str, Any]:
    if not load:
        return {"Encoder": "none (from scratch)"}
    total = load["num_matched"] + load["num_missing"] + load["num_mismatched"]
    return {
        "Encoder": encoder or "",
        "Tensors matched": f"{load['num_matched']}/{total} "
        f"({load['match_ratio_encoder']:.0%} of the encoder, "
        f"{load['match_ratio_model']:.0%} of the model)",
        "Shape mismatches": load["num_mismatched"],
        "Not the encoder's": f"{load['num_ignored']} tensors left out (decoder, mask token)",
        "SHA-256": load["checkpoint_sha256"][:16],
    }


def _freeze_rows(schedule: str, proof: Mapping[str, Any] | None) -> dict[str, Any]:
    if proof is None:
        return {"Schedule": "none: not trained by gradient"}
    rows = {"Schedule": schedule}
    for phase in proof.get("phases", []):
        first, last = phase["epochs"]
        rows[f"Epochs {first + 1}-{last + 1}"] = (
            f"{phase['encoder_tensors_frozen']} encoder tensors frozen, "
            f"{phase['encoder_tensors_moved']} moved"
        )
    return {**rows, "Proven": "yes, tensor by tensor" if proof.get("proven") else "NO"}


def print_evaluation(summary: EvaluationSummary) -> None:
    """Print the verdicts of a candidate."""
    candidate = summary.candidate
    print_report(
        f"GATES OF {candidate.name} VERSION {candidate.version}",
        {
            "EVIDENCE": {
                "Run ID": summary.run_id,
                "Windows": f"{summary.num_windows} walk-forward validation windows",
                **{
                    label: figure(summary.metrics[key])
                    for label, key in _POOLED.items()
                    if key in summary.metrics
                },
                "Report": f"{names.ARTIFACT_REPORT_PAGE} among the run's artifacts",
            }
        },
    )
    print_gates(summary.reports)
    out = console()
    for reason in summary.does_not_apply.values():
        out.print(f"Not asked: {reason}")
    if any(r.gate == 2 and r.verdict == "failed" for r in summary.reports):
        out.print(f"A control wins: read {names.ARTIFACT_INVESTIGATION} among the run's artifacts")
    if any(r.verdict == "held" for r in summary.reports):
        out.print(f"Too good to be true: run moola investigate {candidate.version}")
    if summary.not_run:
        missing = ", ".join(map(str, summary.not_run))
        out.print(f"Not signed: promotion needs gates {missing} as well; run without --gate")


def print_investigation(investigation: Investigation) -> None:
    """Print the leak checks of a version, and what is still to be answered."""
    print_report(
        f"LEAK CHECKS OF {investigation.name} VERSION {investigation.version}",
        {
            "SUSPICIONS": dict(investigation.suspicions)
            or {"None": "gate 1 is not too good to be true"}
        },
    )
    rows = table("check", "leak", "what it shows")
    for name, check in investigation.checks.items():
        words = {True: ("LEAK", "red"), False: ("no", "green"), None: ("unknown", "dim")}
        rows.add_row(name, styled(*words[check.leak]), check.question)
        rows.add_row("", "", check.detail)
    out = console()
    out.print(rows)
    out.print(f"Gate 1 is {investigation.verdict}")
    if investigation.asked:
        options = " ".join(f'--answer {name}="..."' for name in investigation.asked)
        out.print(
            "A leak is mended in the data. Where there is none, say why: "
            f"moola investigate {investigation.version} {options}"
        )


def investigation_facts(investigation: Investigation) -> dict[str, Any]:
    """Return the leak checks of a version, JSON-ready."""
    return {
        "run_id": investigation.run_id,
        "name": investigation.name,
        "version": investigation.version,
        "gate_1": investigation.verdict,
        "suspicions": dict(investigation.suspicions),
        "checks": {name: check.to_dict() for name, check in investigation.checks.items()},
        "asked": investigation.asked,
    }


def evaluation_facts(summary: EvaluationSummary) -> dict[str, Any]:
    """Return the verdicts of a candidate, JSON-ready."""
    return {
        "run_id": summary.run_id,
        "name": summary.candidate.name,
        "version": summary.candidate.version,
        "num_windows": summary.num_windows,
        "metrics": summary.metrics,
        "gates": [report.to_dict() for report in summary.reports],
        "does_not_apply": summary.does_not_apply,
        "not_run": summary.not_run,
    }


def print_decision(decision: Decision, record: Path | None) -> None:
    """Print what a decision changed."""
    rows = {
        "Version": f"{decision.name} version {decision.version}",
        "Before": decision.champion_before or f"nothing in {decision.alias or 'Production'}",
        "Test-set looks": decision.test_looks if decision.test_looks is not None else "none",
        "Ledger entry": decision.ledger_seq or "none (dry run)",
        "Record": record or "none",
    }
    if decision.alias is not None:
        del rows["Test-set looks"], rows["Record"]
        rows["Alias"] = decision.alias
    gate = decision.promotion_gate
    if gate:
        rows["Because"] = "; ".join(gate["reasons"])
    if decision.notes:
        rows["Note"] = "; ".join(decision.notes)
    print_report(decision.action.upper(), {"DECISION": rows})
