"""Judging a candidate: what the gates are fed with, from folds to reports.

`candidate` finds a version and how it was trained, `folds` its walk-forward folds, `rivals` what it
is compared with, `gate_inputs` one entry for each gate, `judge` runs them, `log_gates` logs them;
`examine` prepares the one look at the locked test windows, `seen` counts looks by bars.
"""
