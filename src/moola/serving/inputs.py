"""What a caller may send as windows, in the forms that carry no type of their own.

Every way of serving (MLflow's pyfunc, `moola serve`, `moola predict`) reads lists and tables here.
Time and memory grow with what was sent, never faster: no table is built before its columns are
known to be those of windows.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moola.data.bars import PRICE_COLUMNS
from moola.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

MAX_WINDOWS = 100_000
WINDOW_COLUMN = "window"
_FORM = "numbers of shape (n, T, 4): open, high, low, close"
_COLUMN = re.compile(r"(open|high|low|close)_(\d{1,6})")


def windows_of(values: Any) -> NDArray[Any]:
    """Return windows as an array; shape, prices and number type are still to be checked.

    Parameters
    ----------
    values
        Array or nested lists of shape (n, T, 4), or a table with one row a window: columns
        ``open_0, high_0, low_0, close_0, open_1, ...`` in any order, or one column ``window`` of
        lists, T bars of 4 prices or 4 T prices bar by bar.

    Returns
    -------
    ndarray
        Windows, shape (n, T, 4) unless an array of another shape was sent; NaN is still in it.

    Raises
    ------
    BadInput
        If the form is another one, or there are more than 100,000 windows.
    """
    import pandas as pd  # slow to import, and the process that reads bodies has no use for it

    if isinstance(values, pd.DataFrame):
        values = _from_table(values)
    elif isinstance(values, Sequence) and not isinstance(values, str | bytes):
        values = from_lists(values)
    elif not isinstance(values, np.ndarray):
        raise BadInput(f"the windows are a {type(values).__name__}", limit=_FORM)
    if values.ndim and len(values) > MAX_WINDOWS:
        raise BadInput(f"the batch holds {len(values)} windows", limit=f"at most {MAX_WINDOWS}")
    return values


def from_lists(values: Any) -> NDArray[np.float64]:
    """Return nested lists of shape (n, T, 4) as an array, or raise BadInput.

    Stricter than ``np.array``: text is never taken for a number, and no array of objects comes out.
    """
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise BadInput(f"the windows are a {type(values).__name__}", limit=_FORM)
    if not values:
        raise BadInput("the batch holds no window", limit="at least 1")
    try:
        if any(len(window) != len(values[0]) for window in values):
            raise BadInput("the windows differ in their number of bars", limit=_FORM)
        bars = list(chain.from_iterable(values))
        if not bars or any(len(bar) != 4 for bar in bars):
            raise BadInput("a bar does not hold 4 prices", limit=_FORM)
        flat = array("d", list(chain.from_iterable(bars)))
    except (TypeError, OverflowError, KeyError):
        raise BadInput("the windows are not nested lists of numbers", limit=_FORM) from None
    return np.frombuffer(flat).reshape(len(values), -1, 4)


def window_columns(window_bars: int) -> list[str]:
    """Return the column names of a table of windows, in the order of the bars."""
    return [f"{price}_{bar}" for bar in range(window_bars) for price in PRICE_COLUMNS]


def column_order(names: Sequence[str]) -> list[int]:
    """Return where a table's columns are in the order of the bars.

    Parameters
    ----------
    names
        Names of the columns, in any order; 4 T of them.

    Returns
    -------
    list of int
        Place of ``open_0``, of ``high_0``, and so on.

    Raises
    ------
    BadInput
        If the names are not exactly those of `window_columns`.
    """
    expected = window_columns(len(names) // 4)
    places = {name: place for place, name in enumerate(names)}
    if not names or len(expected) != len(names) or places.keys() != set(expected):
        odd = next((n for n in names if not _COLUMN.fullmatch(n)), names[-1] if names else "none")
        raise BadInput(
            f"the table has {len(names)} columns, one of them {odd[:40]!r}",
            limit="open_0, high_0, low_0, close_0, open_1, ..., or window; one row a window",
        )
    return [places[name] for name in expected]


def from_rows(names: Sequence[str], rows: Sequence[Any]) -> NDArray[np.float64]:
    """Return the rows of a table as windows, shape (n, T, 4).

    Parameters
    ----------
    names
        Names of the columns, see `windows_of`.
    rows
        A list or tuple a window, with a value a column.

    Returns
    -------
    ndarray
        Windows, shape (n, T, 4).

    Raises
    ------
    BadInput
        If names, lengths or values are not those of windows.
    """
    if any(not isinstance(row, list | tuple) or len(row) != len(names) for row in rows):
        raise BadInput("the rows are not as long as the table is wide", limit=_FORM)
    if list(names) == [WINDOW_COLUMN]:
        return from_lists([_bars_of(row[0]) for row in rows])
    order = column_order(names)
    values = list(chain.from_iterable(rows))
    if not set(map(type, values)) <= {int, float}:
        raise BadInput("the table holds something that is not a number", limit=_FORM)
    try:
        table = np.frombuffer(array("d", values)).reshape(len(rows), len(names))
    except OverflowError:
        raise BadInput("the table holds a number beyond all prices", limit=_FORM) from None
    return table[:, order].reshape(len(rows), len(names) // 4, 4)


def _from_table(table: pd.DataFrame) -> NDArray[np.float64]:
    names = [str(name) for name in table.columns]
    if names == [WINDOW_COLUMN]:
        return from_lists([_bars_of(cell) for cell in table.iloc[:, 0]])
    ordered = table.iloc[:, column_order(names)]
    if any(kind.kind not in "fiu" for kind in ordered.dtypes if isinstance(kind, np.dtype)):
        raise BadInput("the table holds something that is not a number", limit=_FORM)
    try:
        prices = ordered.to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput("the table holds something that is not a number", limit=_FORM) from None
    return prices.reshape(len(table), len(names) // 4, 4)


def _bars_of(cell: Any) -> Any:
    """Return a cell's bars as lists of 4 prices; what is no list is left to `from_lists`."""
    values = cell.tolist() if isinstance(cell, np.ndarray) else cell
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return values
    if any(not issubclass(kind, int | float | np.number) for kind in set(map(type, values))):
        return values
    return [values[i : i + 4] for i in range(0, len(values), 4)]


def flag(params: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Return a parameter that must be true or false."""
    value = params.get(name, default)
    if not isinstance(value, bool | np.bool_):
        raise BadInput(f"params: {name} is a {type(value).__name__}", limit="true or false")
    return bool(value)
