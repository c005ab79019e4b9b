"""HTML pages that need nothing else: one environment of templates, one layout, one style sheet.

Templates lie beside the module that fills them, named by their path in the package. They extend
``html/layout.html.j2``, and whatever they are given is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """Return the page of a template such as ``promotion/page.html.j2``."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("moola", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        keep_trailing_newline=True,
    )
    environment.filters["png_uri"] = _png_uri
    return environment


def _png_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode()}"
