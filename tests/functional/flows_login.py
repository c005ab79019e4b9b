"""Flows of users who log in: accounts, and permissions for experiments and models."""

from __future__ import annotations

from flows_kit import Flow, User

FLOWS: dict[str, Flow] = {}
BASE, GRANTS = "/api/2.0/mlflow", "/api/3.0/mlflow/users/permissions"
PASSWORD = "another-long-password"


def flow(function: Flow) -> Flow:
    """Enter a function as a flow under its name."""
    FLOWS[function.__name__.replace("_", " ")] = function
    return function


def account(user: User, name: str) -> tuple[str, str]:
    """Make an account and return its name and password."""
    user.ask(
        f"account {name}",
        "POST",
        f"{BASE}/users/create",
        {"username": name, "password": PASSWORD},
    )
    return name, PASSWORD


@flow
def accounts(user: User) -> None:
    ann = account(user, "ann")
    user.ask("get", "GET", f"{BASE}/users/get?username=ann")
    body = {"username": "ann", "password": "a-third-long-password"}
    user.ask("new password", "PATCH", f"{BASE}/users/update-password", body)
    user.denied("the old password", "GET", f"{BASE}/experiments/get?experiment_id=0", auth=ann)
    user.ask("make admin", "PATCH", f"{BASE}/users/update-admin",
             {"username": "ann", "is_admin": True})  # fmt: skip
    user.ask("delete", "DELETE", f"{BASE}/users/delete", {"username": "ann"})
    user.denied("get deleted", "GET", f"{BASE}/users/get?username=ann")


@flow
def permissions_for_an_experiment(user: User) -> None:
    bob, experiment = account(user, "bob"), user.experiment("permissions")
    body = {"username": "bob", "resource_type": "experiment", "resource_id": experiment}
    run = {"experiment_id": experiment, "start_time": 1}
    whole = {"experiment_id": experiment}
    user.ask("write with the default", "POST", f"{BASE}/runs/create", run, auth=bob)
    user.denied("delete with the default", "POST", f"{BASE}/experiments/delete", whole, auth=bob)
    user.ask("grant", "POST", f"{GRANTS}/grant", body | {"permission": "MANAGE"})
    user.ask("get", "GET", f"{GRANTS}/get", params=body)
    user.ask("delete with MANAGE", "POST", f"{BASE}/experiments/delete", whole, auth=bob)
    user.ask("revoke", "POST", f"{GRANTS}/revoke", body)
    user.denied("restore", "POST", f"{BASE}/experiments/restore", whole, auth=bob)
    user.ask("list", "GET", f"{GRANTS}/list", params={"username": "bob"})


@flow
def permissions_for_a_model(user: User) -> None:
    eve, name = account(user, "eve"), {"name": "permitted"}
    user.ask("model", "POST", f"{BASE}/registered-models/create", name)
    body = {"username": "eve", "resource_type": "registered_model", "resource_id": "permitted"}
    here = f"{BASE}/registered-models"
    user.ask("read with the default", "GET", f"{here}/get?name=permitted", auth=eve)
    user.denied("delete with the default", "DELETE", f"{here}/delete", name, auth=eve)
    user.ask("grant", "POST", f"{GRANTS}/grant", body | {"permission": "MANAGE"})
    user.ask("delete with MANAGE", "DELETE", f"{here}/delete", name, auth=eve)


@flow
def what_a_stranger_may(user: User) -> None:
    dan = account(user, "dan")
    made = user.ask("experiment", "POST", f"{BASE}/experiments/create", {"name": "dan's"}, auth=dan)
    whole = {"experiment_id": made["experiment_id"]}
    user.ask("run", "POST", f"{BASE}/runs/create", whole, auth=dan)
    user.ask("delete one's own", "POST", f"{BASE}/experiments/delete", whole, auth=dan)
    user.denied("an account", "POST", f"{BASE}/users/create",
                {"username": "x", "password": PASSWORD}, auth=dan)  # fmt: skip
    user.denied("without a name", "GET", f"{BASE}/experiments/get?experiment_id=0", auth=None)
    wrong = ("dan", "not-the-password")
    user.denied("a wrong word", "GET", f"{BASE}/experiments/get?experiment_id=0", auth=wrong)
