"""Commands about data: init, ingest, import, build, remove, split, synth, verify, show."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from moola.cli.console import (
    console,
    print_json,
    print_report,
    print_table,
    progress_bars,
    styled,
    words,
)
from moola.cli.import_windows import import_windows
from moola.cli.ingest import ingest
from moola.cli.options import AsJson, Command, DataRoot, Labeled, Split, one_of, stored
from moola.config.data import STRATEGIES, SplitRecipe, qualified

if TYPE_CHECKING:
    from moola.data.audit.trail import Check
    from moola.data.left_out import LeftOut
    from moola.data.store.data_store import DataStore

app = typer.Typer(no_args_is_help=True, help="Bars in, window sets and splits out.")
app.command(cls=Command)(ingest)
app.command(name="import", cls=Command)(import_windows)

_DEFAULTS = SplitRecipe(labeled="")
_SETS = ("labeled_windows", "unlabeled_windows", "synthetic_cache", "splits")
_AUGMENTER = "moola.pretraining.data_augmentation:TimeSeriesAugmenter"


@app.command(cls=Command)
def init(data_root: str = DataRoot, as_json: bool = AsJson) -> None:
    """Put the bars that ship with Moola into the data folder.

    Example: `moola data init`
    """
    from moola.data.shipped import copy_shipped_bars, shipped_bars

    copied = copy_shipped_bars(data_root)
    states = {
        path.name: "copied" if path.name in copied else "exists already" for path in shipped_bars()
    }
    if as_json:
        print_json(states)
        return
    for name, state in states.items():
        console().print(f"{data_root}/bars/{name:<24}{state}")


@app.command(cls=Command)
def build(
    recipes: Path | None = typer.Option(None, help="YAML recipes; default: those of Moola."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Build every set and split that does not exist yet.

    Example: `moola data build`
    """
    from moola.config.data import load_recipes

    store = _data_store(data_root)
    sets, splits = load_recipes(recipes)
    store.refuse_too_few(sets, splits)
    digests: dict[str, str] = {}
    left_out: dict[str, LeftOut | None] = {}
    with progress_bars(quiet=as_json) as report:
        for name, recipe in sets.items():
            windows = store.build_set(name, recipe, report=partial(report, name))
            digests[name], left_out[name] = windows.sha256, windows.left_out
        for name, split_recipe in splits.items():
            digests[f"splits/{name}"] = store.build_split(name, split_recipe).digest()
    if as_json:
        print_json(digests)
        return
    for name, digest in digests.items():
        console().print(f"{name:<36}{digest}")
        if (count := left_out.get(name)) is not None:
            console().print(f"{'':<36}{count.words}")
            if count.warning is not None:
                console().print(f"{'':<36}{styled('warning', 'yellow')}: {count.warning}")


@app.command(cls=Command)
def remove(
    name: str = typer.Argument(
        help="A set or a split (splits/...).", autocompletion=stored(*_SETS)
    ),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Remove a set or a split that no run, version, split or other set refers to.

    Example: `moola data remove splits/mine_fwd`
    """
    import moola.steps.data

    moola.steps.data.remove(name, data_root=data_root)
    if as_json:
        print_json({"removed": name})
        return
    console().print(f"{name:<36}removed")


@app.command(cls=Command)
def split(
    name: str = typer.Argument(help="Name of the split, for example fwd_chain_v4."),
    labeled: str = Labeled,
    strategy: str = typer.Option(
        _DEFAULTS.strategy,
        help="forward_chaining or walk_forward.",
        autocompletion=one_of(*STRATEGIES),
    ),
    train_fraction: float = typer.Option(
        _DEFAULTS.train_fraction, help="Share of the set, the earliest, to train on."
    ),
    val_fraction: float = typer.Option(
        _DEFAULTS.val_fraction, help="Share to validate on; the rest is the locked test part."
    ),
    num_folds: int = typer.Option(
        _DEFAULTS.num_folds, "--num-folds", "--folds", help="Folds of walk_forward."
    ),
    train_blocks: int | None = typer.Option(
        None, help="walk_forward: train on the latest blocks only (rolling)."
    ),
    embargo_bars: int = typer.Option(0, help="Bars between one part's labels and the next part."),
    indices: Path | None = typer.Option(
        None, "--from", help="JSON with your own train_indices, val_indices and test_indices."
    ),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Split a labelled set, forward in time and purged; nothing else is accepted.

    Example: `moola data split rolling --labeled v1 --strategy walk_forward --train-blocks 2`
    """
    from moola.data.splits import Split, from_indices, read_indices

    store = _data_store(data_root)
    labeled = qualified(labeled, "labeled_windows")
    if indices is not None:
        windows = store.load_set(labeled)
        divided: Any = from_indices(
            name, labeled, windows.sha256, windows.times,
            **read_indices(indices), embargo_bars=embargo_bars,
        )  # fmt: skip
        store.audit(windows, divided).require()
        store.save_split(divided)
    else:
        recipe = SplitRecipe(
            labeled=labeled,
            strategy=strategy,
            train_fraction=train_fraction,
            val_fraction=val_fraction,
            num_folds=num_folds,
            train_blocks=train_blocks,
            embargo_bars=embargo_bars,
        )
        divided = store.build_split(name, recipe)
    parts = [divided] if isinstance(divided, Split) else list(divided.folds)
    rows = [
        {"split": s.name, **{p: len(r) for p, r in s.parts.items()}, "purged": len(s.purged)}
        for s in parts
    ]
    if as_json:
        print_json({"name": divided.name, "sha256": divided.digest(), "parts": rows})
        return
    print_table(rows)


@app.command(cls=Command)
def synth(
    name: str = typer.Argument(help="Name of the synthetic set, for example v1_jitter_r0.5."),
    labeled: str = Labeled,
    split_name: str = Split,
    ratio: float = typer.Option(0.5, help="Share of synthetic windows in train."),
    seed: int = typer.Option(0, help="Seed of the augmenter."),
    augmenter: str = typer.Option(_AUGMENTER, help="module:object; settings go to it by name."),
    setting: list[str] = typer.Option([], "--set", help="name=value for the augmenter."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Make synthetic windows of a split's train part, test them and store what passes.

    Example: `moola data synth v1_jitter_r0.5 --ratio 0.5 --set jitter_sigma=0.02`
    """
    from moola.data.synthetic import load_augmenter

    store = _data_store(data_root)
    augment, config = load_augmenter(augmenter, setting)
    synthetic, checks = store.build_synthetic(
        name,
        store.load_set(qualified(labeled, "labeled_windows")),
        store.load_split(split_name),
        augment,
        config=config,
        ratio=ratio,
        random_state=seed,
    )
    if as_json:
        rows = [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in checks]
        print_json(
            {
                "name": synthetic.name,
                "sha256": synthetic.sha256,
                "windows": len(synthetic),
                "checks": rows,
            }
        )
        return
    console().print(f"{synthetic.name}: {len(synthetic)} windows, SHA-256 {synthetic.sha256}")
    _print_checks(checks)


@app.command(cls=Command)
def verify(
    names: list[str] = typer.Argument(
        None, help="Sets and splits; default: all there are.", autocompletion=stored(*_SETS)
    ),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Check digests, derive every set again from its bars, and audit every split.

    Example: `moola data verify labeled_windows/v1 splits/fwd_chain_v3`
    """
    from moola.data.imported import UNPROVEN
    from moola.data.store.review import verify
    from moola.errors import AuditError, DataError

    store = _data_store(data_root)
    wanted = list(names or store.names())
    if not wanted:
        raise DataError(f"{data_root} holds no set", remedy="Build it: moola data build")
    refusals: dict[str, str | None] = {}
    unproven: dict[str, str] = {}
    with progress_bars(quiet=as_json) as report:
        for k, name in enumerate(wanted):
            try:
                for trail in verify(store, name):
                    trail.require()
                    if any(c.detail == UNPROVEN for c in trail.checks):
                        unproven[name] = UNPROVEN
                refusals[name] = None
            except (AuditError, DataError) as error:
                refusals[name] = str(error)
            report("verifying", k + 1, len(wanted))
    if as_json:
        print_json(refusals)
    else:
        for name, refusal in refusals.items():
            intact = (
                f"as it was stored; {unproven[name]}" if name in unproven else "as it was built"
            )
            console().print(f"{name:<36}{refusal or intact}")
    bad = [n for n, refusal in refusals.items() if refusal]
    if bad:
        raise AuditError(f"{len(bad)} of {len(wanted)} must not be believed: {', '.join(bad)}")


@app.command(cls=Command)
def show(
    name: str | None = typer.Argument(
        None,
        help="A set, a split (splits/...) or bars (bars/...).",
        autocompletion=stored(*_SETS, "bars"),
    ),
    picture: Path | None = typer.Option(None, help="Write a split's audit as a PNG."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Show what there is, or one set, split or bar set.

    Example: `moola data show splits/fwd_chain_v3 --picture audit.png`
    """
    from moola.data.store.review import describe

    store = _data_store(data_root)
    facts = describe(store, name)
    if picture is not None:
        _write_picture(store, name, picture)
    if as_json:
        print_json(facts)
        return
    if name is None:
        print_table(facts["sets"])
        return
    print_report(name.upper(), {"FACTS": {k: words(v) for k, v in facts.items()}})


def _data_store(data_root: str) -> DataStore:
    from moola.data.store.data_store import DataStore

    return DataStore(data_root)


def _write_picture(store: DataStore, name: str | None, picture: Path) -> None:
    from moola.data.audit.plot import audit_figure
    from moola.data.store.review import verify
    from moola.errors import ConfigError
    from moola.hashing import atomic_file

    if name is None or not name.startswith("splits/"):
        raise ConfigError(f"--picture is asked for {name!r}", limit="a split: splits/<name>")
    trail = verify(store, name)[-1].to_dict()
    with atomic_file(picture) as draft:
        audit_figure(trail).savefig(draft, format="png", dpi=150)


def _print_checks(checks: list[Check]) -> None:
    out = console()
    for check in checks:
        mark = styled("ok", "green") if check.passed else styled("refused", "red")
        out.print(mark, end=" " * (8 - len(mark)))
        out.print(f"{check.name}: {check.detail}")
