"""Bars to audited window sets. No torch, no MLflow.

Bars
    `bars` (read, checked), `shipped` (those that come with Moola); `ingest` makes them of any file;
    `bar_quality` reports what is wrong in them: `bar_quality_scan` (finds it), `bar_quality_page`
    (shows it); `repeats` (blocks that repeat, against chance).
Window sets
    `windows` (where they are, how a model sees one), `left_out` (which are not taken, and why),
    `need` (how many bars a recipe needs), `labels` (by a rule), `user_labels` (by file),
    `features` (the 20), `build` (writes a set), `partitioned` (of more bars than memory holds),
    `imported` (of windows without bars), `sets` (reads one), `synthetic` (makes, writes and reads
    synthetic ones), `twosample` (do two samples look alike).
Splits
    `splits` (makes them), `split_files` (holds, writes and reads them), `split_fields` (field by
    field).
The audit
    `audit` (of a split), `audit_lineage` (is a set what its bars and recipe give),
    `audit_synthetic` (may synthetic windows be used), `duplicates` (the same bars twice),
    `audit_trail` (what is said of it all), `audit_plot` (the same as a picture).
The registry
    `registry` (`DataRegistry`: build, load, audit by name), `registry_layout` (names and places),
    `registry_storage` (a folder or an object store), `registry_review` (verify and describe what
    is stored), `container` (what a run gets to train on).
"""
