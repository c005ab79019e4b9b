"""The command line: parse, call a step, print, exit. Heavy packages are imported by the commands."""

from moola.cli.app import app, main

__all__ = ["app", "main"]
