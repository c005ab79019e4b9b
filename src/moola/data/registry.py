"""The data store under the name of the notes that Moola grew out of; see docs/notes.md."""

from moola.data.store.data_store import DataStore as DataRegistry

__all__ = ["DataRegistry"]
