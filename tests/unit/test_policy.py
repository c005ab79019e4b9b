"""Rules by model and alias: what a policy may say, and what follows from it."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml

from moola.config.policy import Policy, Rule
from moola.config.promotion import PromotionPolicy
from moola.config.requirements import Approve, Better, Metric, PassingTests, Profile
from moola.errors import ConfigError

CHURN = """
version: 2
mode: report
rules:
  - name: churn
    models: [churn, "churn-*"]
    aliases: [champion, production]
    mode: enforce
    require:
      - tests: {at_least: 3}
      - metric: {name: recall, at_least: 0.7, counts: interval}
      - better: {metric: log_loss, kind: non-inferior, margin: 0.01}
      - approve: {by: [ann, bob], people: 2}
    signed_by: [ci]
    max_age_days: 7
  - name: rest
    require: [tests]
break_glass: {by: [ann], hours: 4}
promoters: [ann]
ohlc: {required_gates: [0, 1]}
"""


def policy(text: str) -> Policy:
    return Policy.from_values(yaml.safe_load(text))


def test_a_policy_is_read() -> None:
    read = policy(CHURN)
    churn, rest = read.rules
    assert churn.require == (
        PassingTests(at_least=3),
        Metric(name="recall", at_least=0.7, counts="interval"),
        Better(metric="log_loss", kind="non-inferior", margin=0.01),
        Approve(by=("ann", "bob"), people=2),
    )
    assert (churn.mode, rest.mode) == ("enforce", "report")
    assert read.ohlc.required_gates == (0, 1)
    assert read.ohlc.promoters == ("ann",)
    assert read.break_glass is not None
    assert read.break_glass.hours == 4
    assert read.signers() == {
        "ci": ("churn",), "ann": ("churn", "break_glass"), "bob": ("churn",)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "alias", "kind", "matching", "refusing"),
    [
        ("churn", "champion", "model", ["churn", "rest"], ["churn"]),
        ("churn-eu", "Production", "model", ["churn", "rest"], ["churn"]),
        ("churn", " CHAMPION ", "model", ["churn", "rest"], ["churn"]),
        ("churn", "staging", "model", [], []),
        ("Churn", "champion", "model", ["rest"], []),
        ("other", "champion", "model", ["rest"], []),
        ("churn", "champion", "prompt", [], []),
    ],
)
def test_every_rule_that_matches_holds(
    name: str, alias: str, kind: str, matching: list[str], refusing: list[str]
) -> None:
    read = policy(CHURN)
    assert [rule.name for rule in read.rules_for(name, alias, kind=kind)] == matching
    assert [rule.name for rule in read.enforced(name, alias, kind=kind)] == refusing


def test_a_file_of_the_first_form_keeps_its_meaning(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("models: ['a[b]c']\nprotected_aliases: [production, live]\n")
    [rule] = Policy.from_yaml(path).rules
    assert rule.require == (Profile(),)
    assert rule.names_model("a[b]c", "model")
    assert not rule.names_model("abc", "model")  # a name, no pattern
    assert rule.names_model("a[b]c", "prompt")
    assert rule.names_alias("LIVE")
    assert rule.mode == "enforce"
    assert Policy.from_values({}).rules_for("any", "production", kind="model")


def test_without_a_file_moolas_own_models_are_guarded_and_others_reported() -> None:
    read = Policy.without_file()
    own = read.rules_for("x", "production", kind="moola")
    assert [(rule.name, rule.mode) for rule in own] == [("ohlc", "enforce")]
    other = read.rules_for("x", "champion", kind="model")
    assert [(rule.name, rule.mode) for rule in other] == [("others", "report")]
    assert read.rules_for("x", "production", kind="prompt") == ()


BAD = [
    ("version: 3\nrules: []", "version of the policy is 3"),
    ("version: 2", "lacks rules"),
    ("version: 2\nruls: []", "Did you mean 'rules'"),
    ("version: 2\nrules: [{name: a, require: [test]}]", "Did you mean 'tests'"),
    ("version: 2\nrules: [{name: a, require: []}]", "require of rule a is empty"),
    ("version: 2\nrules: [{name: a, requires: [tests]}]", "Did you mean 'require'"),
    ("version: 2\nrules: [{name: a, require: [{tests: {atleast: 1}}]}]", "'at_least'"),
    ("version: 2\nrules: [{name: a, require: [{tests: 1}]}]", "tests is 1"),
    ("version: 2\nrules: [{name: a, require: [{tests: {}, better: {}}]}]", "names 'tests', 'b"),
    ("version: 2\nrules: [{name: a, require: [{metric: {name: x}}]}]", "has no bound"),
    (
        "version: 2\nrules: [{name: a, require: [{metric: {name: x, at_least: .nan}}]}]",
        "bound of x is nan",
    ),
    (
        "version: 2\nrules: [{name: a, require: [{approve: {by: [ann, ann], people: 2}}]}]",
        "people is 2",
    ),
    ("version: 2\nrules: [{name: a, require: [{approve: {by: [../ann]}}]}]", "'../ann'"),
    (
        "version: 2\nrules: [{name: a, require: [tests]}, {name: a, require: [tests]}]",
        "two rul",
    ),
    ("version: 2\nrules: [{name: a, require: [tests], mode: enforced}]", "'enforce'"),
    ("version: 2\nrules: [{name: a, require: [tests], max_age_days: 0}]", "max_age_days"),
    ("version: 2\nrules: [{name: a, require: [tests], models: churn}]", "models is 'churn'"),
    ("version: 2\nrules: [{name: a, require: [{profile: ohcl}]}]", "Did you mean 'ohlc'"),
    (
        "version: 2\nrules: [{name: a, require: [{profile: ohlc}], aliases: [champion]}]",
        "production among them",
    ),
    ("version: 2\nrules: []\nbreak_glass: {by: []}", "by of break_glass is empty"),
    ("version: 2\nrules: []\nohlc: {models: [a]}", "ohlc holds models"),
    ("version: 2\nrules: []\nohlc: {webhooks: []}", "webhooks at the top of the file"),
    ("protected_aliases: [champion]", "protected_aliases"),
]
# the schema of an editor sees the form of a file, not what two values mean together
BAD_OF_FORM = [
    text
    for text, sentence in BAD
    if text.startswith("version")
    and sentence not in ("people is 2", "two rul", "production among them")
    and ".nan" not in text
]


@pytest.mark.parametrize(("text", "sentence"), BAD)
def test_a_bad_policy_is_refused_in_one_line(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        policy(text)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_schema_takes_and_refuses_what_the_policy_does() -> None:
    text = resources.files("moola.config").joinpath("policy.schema.json").read_text()
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(yaml.safe_load(CHURN))) == []
    for text in BAD_OF_FORM:
        assert not validator.is_valid(yaml.safe_load(text)), text
    rule = schema["$defs"]["rule"]["properties"]
    assert set(rule) == {field.name for field in dataclasses.fields(Rule)}
    server = {"promoters", "max_body_mib", "webhooks"}
    assert set(schema["properties"]) == {f.name for f in dataclasses.fields(Policy)} | server
    of_rules = {"models", "protected_aliases"}
    known = {field.name for field in dataclasses.fields(PromotionPolicy)} - of_rules - server
    assert set(schema["properties"]["ohlc"]["properties"]) == known
