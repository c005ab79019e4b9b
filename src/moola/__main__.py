"""``python -m moola``."""

from moola.cli import main

main()
