"""What a frozen tensor takes along: the buffers beside it, and the mode of its module."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import nn

from moola.models.weights.net_tensors import BUFFER, PARAMETER, NetTensor

_PARAMETRIZED = re.compile(r"(.*\.|)parametrizations\.([^.]+)\..+")
_HOOKED = re.compile(r"(.+)_(orig|g|u|v)")


def plain_name(name: str, others: Collection[str]) -> str:
    """Return the name a tensor has without a parametrisation.

    Weight and spectral norm split a weight into tensors such as ``parametrizations.weight.0._u``
    or ``weight_orig``; frozen is what they make up, so they answer to its name too.

    Parameters
    ----------
    name
        Of a tensor of the net.
    others
        All names of the net.

    Returns
    -------
    str
        `name` itself where nothing is parametrised.
    """
    if match := _PARAMETRIZED.fullmatch(name):
        return match[1] + match[2]
    if match := _HOOKED.fullmatch(name):
        stem = match[1]
        if f"{stem}_orig" in others or (f"{stem}_g" in others and f"{stem}_v" in others):
            return stem
    return name


def owner(name: str) -> str:
    """Return the path of the module a tensor belongs to, whose weight it parametrises or not."""
    return plain_name(name, ()).rpartition(".")[0]


def all_frozen(
    tensors: Mapping[str, NetTensor], chosen: Collection[str], never: Collection[str] = ()
) -> set[str]:
    """Return the tensors that stay fixed when the chosen ones do.

    Statistics that go on moving change what a frozen module answers. So buffers are frozen with
    any tensor of their own module, and with a submodule all of whose parameters are frozen. The
    buffers of a module of which one was not loaded stay free: they start at a default and must
    learn.

    Parameters
    ----------
    tensors
        Of the net, see ``net_tensors``.
    chosen
        Names that a schedule freezes.
    never
        Names that must not be frozen.

    Returns
    -------
    set of str
        `chosen` less the free buffers, and the buffers that are frozen with it.
    """
    frozen = set(chosen)
    for path in _paths(tensors):
        inside = _inside(path, tensors)
        parameters = [n for n in inside if tensors[n].kind == PARAMETER]
        if parameters and frozen.issuperset(parameters):
            frozen.update(n for n in inside if tensors[n].kind == BUFFER)
    for names in _by_owner(tensors).values():
        buffers = {n for n in names if tensors[n].kind == BUFFER}
        if buffers.intersection(never):
            frozen -= buffers
        elif not frozen.isdisjoint(names):
            frozen |= buffers
    return frozen


def still_modules(
    net: nn.Module, tensors: Mapping[str, NetTensor], frozen: Collection[str]
) -> dict[str, nn.Module]:
    """Return the modules that must run in evaluation mode while these tensors are frozen.

    Those are the submodules whose tensors are all frozen, with everything in them (dropout too),
    and any module that has a frozen buffer of its own. An LSTM of which one layer trains has none:
    it stays in training mode, which cuDNN needs for its gradient.

    Parameters
    ----------
    net
        Whose modules.
    tensors
        Of the net, see ``net_tensors``.
    frozen
        See ``all_frozen``.

    Returns
    -------
    dict
        Modules by path.
    """
    whole = tuple(p for p in _paths(tensors) if set(_inside(p, tensors)).issubset(frozen))
    roots = tuple(f"{path}." for path in whole)
    holders = {n.rpartition(".")[0] for n in frozen if tensors[n].kind == BUFFER}
    return {
        path: module
        for path, module in net.named_modules(remove_duplicate=False)
        if path in holders or f"{path}.".startswith(roots)
    }


def _paths(tensors: Mapping[str, NetTensor]) -> list[str]:
    """Return the paths of all submodules that hold a tensor, themselves or below."""
    paths: set[str] = set()
    for name in tensors:
        parts = name.split(".")[:-1]
        paths.update(".".join(parts[:n]) for n in range(1, len(parts) + 1))
    return sorted(paths)


def _inside(path: str, tensors: Mapping[str, NetTensor]) -> list[str]:
    return [n for n in tensors if n.startswith(f"{path}.")]


def _by_owner(tensors: Mapping[str, NetTensor]) -> dict[str, list[str]]:
    """Return the names by the module they belong to, a parametrised weight's with its module."""
    owners: dict[str, list[str]] = {}
    for name in tensors:
        owners.setdefault(owner(name), []).append(name)
    return owners
