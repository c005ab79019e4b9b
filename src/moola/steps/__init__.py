"""One function for each command: load, work, judge, log."""
