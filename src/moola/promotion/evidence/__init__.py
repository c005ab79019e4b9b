"""Evidence: signed statements about one version, and whether they carry a promotion.

`keys` holds the Ed25519 keys, `attestation` what a gate runner signs, `checks` holds it against the
policy, `proof` decides whether a line of the ledger is proven.
"""
