"""Extension of griffe: parameters that a docstring describes together keep their own defaults.

For ``version, split_name`` griffe writes type and default of the first beside both.
"""

from __future__ import annotations

from typing import Any

from griffe import Class, Docstring, DocstringSectionKind, Extension, Function, Module, Object


class OwnDefaults(Extension):
    """Writes each parameter's own type and default into the parsed docstrings of a package."""

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        """Walk a package once it is loaded."""
        _walk(pkg)


def _walk(found: Object) -> None:
    for member in found.members.values():
        if isinstance(member, Module | Class):
            _walk(member)
        elif isinstance(member, Function) and member.docstring:
            _mend(member, member.docstring)


def _mend(function: Function, docstring: Docstring) -> None:
    for section in docstring.parsed:
        if section.kind is DocstringSectionKind.parameters:
            for parameter in section.value:
                if parameter.name in function.parameters:
                    own = function.parameters[parameter.name]
                    parameter.annotation, parameter.value = own.annotation, own.default
