"""Legacy and experimental nets: importable and tested, created only by their full path."""
