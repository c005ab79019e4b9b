"""The guarded server: MLflow's own server with Moola's rules below every route.

`server` starts it, `census` names every route and store method, `doors` closes what it does not
name. `core` decides; `registry`, `tracking` and `artifacts` are the guarded stores, `move` moves
Production, `frozen`, `files` and `uploads` keep what was promoted as it was.
"""
