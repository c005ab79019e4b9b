"""Bars to audited window sets. No torch, no MLflow.

Bars
    `bars` (read, checked), `shipped` (those that come with Moola), `repeats` (blocks that repeat,
    against chance), `market` (bars known again under any name).
Window sets
    `windows` (where they are, how a model sees one), `left_out` (which are not taken, and why),
    `need` (how many bars a recipe needs), `labels` (by a rule), `user_labels` (by file),
    `features` (the 20), `build` (writes a set), `partitioned` (of more bars than memory holds),
    `imported` (of windows without bars), `synthetic` (makes, writes and reads synthetic ones),
    `surrogate` (windows of a random market with the same bars).
Splits
    `splits` (makes them), `split_files` (holds, writes and reads them), `split_fields` (field by
    field).
Rooms
    `ingest` (any bar file becomes one of Moola's own), `store` (sets by name, local or S3),
    `audit` (whether this data may be believed). `registry` is the store under an older name.
"""
