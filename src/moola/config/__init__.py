"""Configuration: frozen dataclasses that check themselves, and the names everyone shares."""
