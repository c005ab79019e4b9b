"""Commands that train and judge: demo, train, evaluate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from moola.cli.console import console, print_json, progress_bars
from moola.cli.options import (
    Address,
    AsJson,
    DataRoot,
    Device,
    Folds,
    GpusPerTask,
    Jobs,
    LauncherName,
    Name,
    Resume,
    on_command_line,
    one_of,
    options_of,
)
from moola.cli.reports import evaluation_facts, finetune_facts, print_evaluation, print_finetune
from moola.config import names
from moola.config.base import options_in
from moola.config.evaluation import EvaluateConfig
from moola.config.training import ENCODER, MODELS, FinetuneConfig, require_acting
from moola.errors import ConfigError


@options_of(FinetuneConfig)
def train(
    config: FinetuneConfig,
    context: typer.Context,
    resume: bool = Resume,
    register_as: str = typer.Option(
        names.REGISTERED_MODEL, help="Registered model that gets a new version; none: no version."
    ),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
    freeze_encoder: bool = typer.Option(
        True,
        "--freeze-encoder/--no-freeze-encoder",
        help="Follow --freeze, or train all at once.",
        rich_help_panel=ENCODER,
    ),
    log_pretrained_stats: bool = typer.Option(
        False, help="Print every tensor of the load.", rich_help_panel=ENCODER
    ),
) -> None:
    """Train a classifier, from scratch or from an encoder, and register it as a version.

    Example: `moola train --preset matched --pretrained-encoder artifacts/pretrained/bilstm_encoder`
    """
    from moola.steps.finetune import finetune

    of_training = {*options_in(FinetuneConfig), "freeze_encoder", "log_pretrained_stats"}
    require_acting(config.model, [name for name in on_command_line(context) if name in of_training])
    if not freeze_encoder:
        config = replace(config, freeze="none")
    with progress_bars(quiet=as_json) as progress:
        summary = finetune(
            config,
            data_root=data_root,
            register_as=_unless(register_as, "none"),
            resume=resume,
            progress=progress,
        )
    if as_json:
        print_json(finetune_facts(summary))
        return
    print_finetune(summary)
    if log_pretrained_stats and summary.result.load_report:
        from moola.models.weights.load_report import format_load_report

        console().print(format_load_report(summary.result.load_report))
        for group in ("matched", "missing", "unexpected", "ignored"):
            console().print(f"{group}: {', '.join(summary.result.load_report[group]) or 'none'}")


@options_of(EvaluateConfig)
def evaluate(
    config: EvaluateConfig,
    version: str = typer.Option(
        "newest", help="Version to judge; several (1,2,3) compete, and Holm's correction holds."
    ),
    model: str = typer.Option(
        "",
        help="The newest version of this kind of model; empty: whichever --version says.",
        autocompletion=one_of(*MODELS),
    ),
    name: str = Name,
    folds: str = Folds,
    thresholds: Path | None = typer.Option(None, help="YAML file over Moola's own thresholds."),
    jobs: int = Jobs,
    launcher: str = LauncherName,
    address: str = Address,
    gpus_per_task: float = GpusPerTask,
    device: str = Device,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Run the gates for a registered version and sign the verdicts.

    The version's configuration is trained again on every walk-forward fold and seed; what is
    finished is kept, so an interrupted evaluation goes on where it stopped.

    Example: `moola evaluate --version 2 --seeds 17,18 --jobs 2`

    Example: `moola evaluate --launcher ray --address auto`
    """
    import moola.steps.evaluate
    from moola.config.evaluation import Thresholds
    from moola.steps.evaluate import resolve_versions
    from moola.training.launchers import open_launcher

    where = open_launcher(launcher, jobs=jobs, address=address or None, gpus_per_task=gpus_per_task)
    limits = Thresholds.load(thresholds) if thresholds else None
    versions = resolve_versions(version or "newest", name, model=model or None)
    summaries = []
    try:
        for one in versions:
            with progress_bars(quiet=as_json) as progress:
                summary = moola.steps.evaluate.evaluate(
                    version=one,
                    peers=[v for v in versions if v != one],
                    name=name,
                    folds=folds or None,
                    config=config,
                    launcher=where,
                    thresholds=limits,
                    device=device,
                    data_root=data_root,
                    progress=progress,
                )
            summaries.append(evaluation_facts(summary))
            if not as_json:
                print_evaluation(summary)
    except Exception as error:  # what was judged is told, even if a later version cannot be
        if as_json and summaries:
            print_json(summaries)
            error.told_as_json = True  # type: ignore[attr-defined]
        raise
    if as_json:
        print_json(summaries)


def investigate(
    version: str = typer.Argument("newest", help="Version whose gates were evaluated."),
    name: str = Name,
    answer: list[str] = typer.Option(
        [], help="NAME=REASON: answers a suspicion or a check that shows a leak; repeatable."
    ),
    thresholds: Path | None = typer.Option(None, help="YAML file over Moola's own thresholds."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Look for leaks behind a result that is too good to be true; answer what a held gate asks.

    The checks lag the features, permute the horizon, compare the halves, tell how old the bars are
    that matter, and more. A gate that is `held` passes once every suspicion and every check that
    shows a leak is answered with a reason; answers are signed with your name.

    Example: `moola investigate 3`

    Example: `moola investigate 3 --answer roc_auc="the label repeats daily"`
    """
    from moola.cli.reports import investigation_facts, print_investigation
    from moola.config.evaluation import Thresholds
    from moola.steps.investigate import investigate_version

    with progress_bars(quiet=as_json) as progress:
        investigation = investigate_version(
            version=None if version == "newest" else version,
            name=name,
            answers=_answers(answer),
            data_root=data_root,
            thresholds=Thresholds.load(thresholds) if thresholds else None,
            progress=progress,
        )
    if as_json:
        print_json(investigation_facts(investigation))
    else:
        print_investigation(investigation)


def _answers(pairs: list[str]) -> dict[str, str]:
    """Return answers by name; raises ConfigError unless each is NAME=REASON, given once."""
    answers: dict[str, str] = {}
    for pair in pairs:
        name, sign, reason = pair.partition("=")
        if not sign or not name.strip() or name.strip() in answers:
            raise ConfigError(f"--answer is {pair!r}", limit="NAME=REASON, each name once")
        answers[name.strip()] = reason.strip()
    return answers


def demo(
    device: str = Device,
    data_root: str = DataRoot,
    jobs: int = typer.Option(2, help="Trainings at the same time."),
) -> None:
    """Do the whole job once on the bars that ship with Moola.

    Build the sets, pretrain, train from scratch and from the encoder, run the gates, promote what
    they allow, serve it and ask it for predictions.

    Example: `moola demo --device cpu`
    """
    from moola.cli.demo import run_demo

    run_demo(device=device, data_root=data_root, jobs=jobs)


def _unless(value: str, word: str) -> str | None:
    """Return None for an empty value or the word that stands for it, else the value."""
    return None if value in ("", word) else value
