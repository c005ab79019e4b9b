"""The data store: versioned window sets, splits and synthetic sets, by name.

`data_store` builds, loads and audits by name; `layout` says which name is which place, `storage`
whether that is a folder or an object store, `sets` reads a set, `container` is what a run trains
on, `review` verifies and describes everything that is stored.
"""
