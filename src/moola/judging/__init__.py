"""Judging a candidate, from folds to reports.

`candidate` finds a version and its configuration, `folds` its walk-forward folds, `rivals` predicts
its variants and the controls, `gate_inputs` has one entry per gate, `judge` runs them, `log_gates`
logs them; `examine` prepares the look at the locked test windows, `seen` records looks by bars.
"""
