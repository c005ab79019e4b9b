"""Moola: experiment tracking and gated promotion for small time-series classifiers on OHLC windows."""

__version__ = "0.1.0"
