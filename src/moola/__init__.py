"""Moola: tracking and gated promotion of small time-series classifiers on OHLC windows."""

__version__ = "0.1.0"
