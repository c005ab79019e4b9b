"""The ledger: an append-only, hash-chained, signed list of every decision.

`local` is the table in a database (`schema`, `rows`), `remote` the ledger of a guarded server.
`entry` is one line, `content` what it says in types, `belief` which lines count, `lines` what
follows from them; `checkpoint` notices cut tails, `client_events` is what clients may send.
"""
