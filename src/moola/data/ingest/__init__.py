"""Ingest: any bar file becomes one of Moola's own, with a report of what is wrong in it.

`run` (`ingest`) goes through it all; `files` opens a file of any kind (`csv_file` a CSV); `names`
and `columns` say which column is which; `options` is what the user may say; `rows` makes bars of
rows, with `volume`; `spool` puts them into the order of time on disk; `varying` finds what tells
contradicting rows apart; `outcome` says in five lines what came of it and refuses what is absurd.
"""

from moola.data.ingest.options import ACCEPTS, REPAIRS, IngestOptions
from moola.data.ingest.run import Ingested, detect, ingest

__all__ = ["ACCEPTS", "REPAIRS", "IngestOptions", "Ingested", "detect", "ingest"]
