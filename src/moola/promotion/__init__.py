"""Evidence, the ledger, promotion and the guarded registry."""
