"""Scoring, comparing and judging models: pure functions of labels and probabilities.

Scores
    `predictions` (which may be scored, each window's score), `metrics` (all of them, with
    intervals), `weighted` (the same on many resamples at once).
Intervals
    `resampling` (block bootstrap), `mean_interval` (of a mean of dependent values), `dependence`
    (how far neighbouring windows depend on each other).
Calibration
    `binning` (bins and the errors that follow), `calibration` (reliability, what chance shows),
    `temperature` (scaling), `conformal` (sets of classes), `ensemble` (a calibrated mean).
Comparisons
    `compare` (two models on the same windows), `compare_result` (what that finds), `drift` (served
    windows beside the training ones).
Rooms
    `gates` (one file for each rule), `pages` (reports and plots).
"""
