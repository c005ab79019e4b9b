"""The command line: parse, call a step, print, exit. Commands import heavy packages themselves."""

from moola.cli.app import app, main

__all__ = ["app", "main"]
