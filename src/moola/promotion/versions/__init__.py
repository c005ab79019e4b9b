"""A version is a stranger's data: what happens before anything believes it.

`pyfunc_answers` has any model answer in a process of its own (`sandbox`, `pyfunc_process`),
`fetched` copies its files, `packaging` refuses whatever Moola did not write (`packaging_files`,
`packaging_words`, `compiled`, `classes`), `inspection` loads it in a process with limits
(`limited`), `digest` is its identity, `referee` scores it on the server.
"""
