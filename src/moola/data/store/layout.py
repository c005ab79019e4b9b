"""Where things are stored below a data store's root, which names lead there, and reading them."""

from __future__ import annotations

from pathlib import Path

from moola.config.data import check_name, qualified
from moola.data.bars import Bars, read_bars
from moola.data.splits import Split, WalkForward, read_split_file
from moola.data.store.sets import WindowSet, read_set
from moola.data.store.storage import Root, open_root
from moola.data.synthetic import SyntheticSet, read_synthetic
from moola.errors import AuditError, ConfigError, DataError

KINDS = ("labeled_windows", "unlabeled_windows", "synthetic_cache")


class Layout:
    """The sets, splits and bars of a data store, by name.

    Parameters
    ----------
    data_root
        A folder, or the URL of one on any file system pyarrow or fsspec knows.
    """

    def __init__(self, data_root: Path | str = Path("data")):
        self._root: Root = open_root(data_root)
        self.data_root = self._root.folder

    def load_bars(self, source: str) -> Bars:
        """Load a bar set by name; raises DataError if it is absent or breaks its rules."""
        self.fetch_bars(source)
        return read_bars(self.data_root / "bars" / f"{source}.parquet")

    def fetch_bars(self, source: str, *, required: bool = True) -> None:
        """Bring a bar set into the folder unchanged; raises DataError if required and absent."""
        try:
            check_name("bar set", source, "a bar set")
        except ConfigError as error:
            raise DataError(error.problem, limit=error.limit) from None
        self._root.fetch(f"bars/{source}.parquet", required=required)

    def fetch_quality(self, source: str) -> None:
        """Bring a bar set's quality report into the folder if there is one."""
        self._root.fetch(f"bars/{source}.quality.json", required=False)

    def load_set(self, name: str) -> WindowSet:
        """Load one set and check every file against its manifest.

        Parameters
        ----------
        name
            For example ``labeled_windows/v1``.

        Returns
        -------
        WindowSet
            Its windows memory-mapped.

        Raises
        ------
        DataError
            If the set is absent or its files do not fit together.
        AuditError
            If a file's digest differs from the manifest, or a file or the set is a link.
        """
        return read_set(name, self.folder(name))

    def load_synthetic(self, name: str) -> SyntheticSet:
        """Load one synthetic set and check every file; raises what `load_set` raises."""
        name = qualified(name, "synthetic_cache")
        return read_synthetic(name, self.folder(name))

    def load_split(self, name: str) -> Split:
        """Load a train/val/test split by name or file."""
        split = self.read_split(name)
        if not isinstance(split, Split):
            raise DataError(f"{name} holds walk-forward folds", limit="a train/val/test split")
        return split

    def load_folds(self, name: str) -> WalkForward:
        """Load walk-forward folds by name or file."""
        folds = self.read_split(name)
        if not isinstance(folds, WalkForward):
            raise DataError(f"{name} holds one split", limit="walk-forward folds")
        return folds

    def names(self) -> list[str]:
        """Return the names of all sets and splits, sorted."""
        return self._root.names(KINDS)

    def has_set(self, name: str) -> bool:
        """Return whether a set of that name exists; raises DataError for a name that cannot be."""
        self.folder(name, must_exist=False)
        return self._root.fetch_set(name)

    def folder(self, name: str, *, must_exist: bool = True) -> Path:
        """Return a set's folder; raises DataError for a bad name, a link or an absent set."""
        kind, _, version = name.partition("/")
        try:
            check_name("version", version, "a version")
        except ConfigError:
            version = ""
        if kind not in KINDS or not version:
            raise DataError(f"set name is {name!r}", limit="for example labeled_windows/v1")
        folder = self.data_root / kind / version
        exists = must_exist and self._root.fetch_set(name)
        if folder.is_symlink() or not folder.resolve().is_relative_to(self.data_root.resolve()):
            raise AuditError(
                f"set {name} is a link out of its place", limit=f"a folder in {self.data_root}"
            )
        if must_exist and not (exists and folder.is_dir()):
            names = [n.partition("/")[2] for n in self.names() if n.startswith(f"{kind}/")]
            raise DataError(
                f"set {name} does not exist in {self.data_root}",
                limit=f"one of: {', '.join(names) or 'none built yet'}",
                remedy=self._how_to_build(),
            )
        return folder

    def _how_to_build(self) -> str:
        if any((self.data_root / "bars").glob("*.parquet")):
            return "Make the default sets with `moola data build`"
        return (
            "There are no bars here: `moola data init` brings those that ship with Moola, "
            "`moola data ingest FILE` your own; then `moola data build`"
        )

    def split_path(self, name: str) -> Path:
        """Return a split's file; raises DataError for a bad or refused name."""
        stem = name.removeprefix("splits/").removesuffix(".json")
        if stem in ("random", "stratified", "shuffled"):
            raise DataError(
                f"split is {stem!r}",
                limit="a forward-chaining split, for example fwd_chain_v3",
                remedy="Random and stratified splits put future bars into training",
            )
        try:
            check_name("split name", stem, "a split, for example fwd_chain_v3")
        except ConfigError:
            raise DataError(f"split name is {name!r}", limit="for example fwd_chain_v3") from None
        path = self.data_root / "splits" / f"{stem}.json"
        if path.is_symlink() or not path.resolve().is_relative_to(self.data_root.resolve()):
            raise AuditError(
                f"split {stem} is a link out of its place", limit=f"a file in {path.parent}"
            )
        return path

    def publish(self, path: str, *, replace: bool = False) -> None:
        """Store a file that was written into the folder of the data store.

        Raises DataError if other content is stored there and `replace` is false.
        """
        self._root.publish(path, replace=replace)

    def read_split(self, name: str) -> Split | WalkForward:
        """Load a split or folds by name or file."""
        path = self.split_path(name)
        self._root.fetch(f"splits/{path.name}", required=False)
        split = read_split_file(path)
        if split.name != path.stem:
            raise AuditError(f"split file {path.name} holds split {split.name!r}")
        return split
