"""One function for each MLproject entry point: load, work, judge, log."""
