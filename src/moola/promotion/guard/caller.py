"""Who asks the guarded server, as well as it can know."""

from __future__ import annotations

from moola.promotion.ledger.client_events import claimed


def authenticated_user() -> str | None:
    """Return the user MLflow's log-in has checked, None where there is no log-in."""
    import flask

    if not flask.has_request_context():
        return None
    user = flask.g.get("mlflow_authenticated_user")
    return None if user is None else str(user)


def attributed(claim: str | None) -> str:
    """Return who is asking; a client's own word of it only where nobody logs in, and marked so."""
    user = authenticated_user()
    if user is not None:
        return claimed(user)
    return f"{claimed(claim)} ({caller()})" if claim else caller()


def caller() -> str:
    """Return who is asking, as well as the server can know it."""
    import flask

    if user := authenticated_user():
        return user
    if flask.has_request_context() and flask.request.remote_addr:
        return f"client at {flask.request.remote_addr}"
    return "server"
