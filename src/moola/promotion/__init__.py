"""Who may reach Production, and the proof of who did.

`promote` and `rollback` decide, `moving` moves alias and stage, `recovery` finishes what was
interrupted, `verify` reads the whole history again, `record` writes a decision down and `webhooks`
tells others. Rooms: `evidence` (what is signed), `versions` (a stranger's files), `ledger` (the
list of every decision), `guard` (MLflow's server with these rules in its stores).
"""
