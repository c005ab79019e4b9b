"""Pages and tables: what is put into them is escaped, and a value that is absent is an error."""

import sys
from subprocess import run

import pytest
from jinja2 import UndefinedError

from moola.html import render
from moola.markdown import markdown_table

PAGE = {"name": "<b>&", "facts": {"a": "<i>"}, "png": b"\x89PNG", "sections": {}, "max_rows": 1}


def test_a_page_has_the_layout_the_style_and_escaped_values():
    page = render("data/ingest/quality_page.html.j2", **PAGE)
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert "prefers-color-scheme:dark" in page
    assert "<title>&lt;b&gt;&amp;: data quality</title>" in page
    assert "<td>&lt;i&gt;</td>" in page
    assert 'src="data:image/png;base64,iVBORw=="' in page


def test_a_value_that_is_absent_is_an_error():
    with pytest.raises(UndefinedError, match="'sections' is undefined"):
        render("data/ingest/quality_page.html.j2", **{k: PAGE[k] for k in PAGE if k != "sections"})


def test_templates_cost_nothing_until_a_page_is_made():
    code = "import sys, moola.cli, moola.html; sys.exit('jinja2' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_table_keeps_each_cell_in_its_place():
    table = markdown_table(("a", ""), [("x | y\nz", 0.123456), ("", 3)])
    assert table.splitlines() == ["| a |  |", "| --- | --- |", "| x \\| y z | 0.1235 |", "|  | 3 |"]
