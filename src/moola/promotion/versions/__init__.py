"""A version is a stranger's data: what happens before anything believes it.

`fetched` copies its files, `packaging` refuses whatever Moola did not write (`packaging_files`,
`packaging_words`, `compiled`, `classes`), `inspection` loads it in a process with limits
(`limited`), `digest` is its identity, `referee` scores it on the server.
"""
