"""The audit: whether a run on this data may be believed.

`checks` audits a split, `lineage` a set against its bars, `synthetic` synthetic windows
(`twosample` and `moments` compare them with real ones), `duplicates` finds windows that occur
twice, `trail` is the result as a run logs it and `plot` draws it.
"""
