"""A mistake in the YAML is refused before anything runs, by file, line and field, as Dagster loads.

The projects are real folders; their definitions load as `dagster dev` would load them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from typing import Any

import dagster as dg
import pytest
import yaml

from retrain_assets import RetrainedModel
from retrain_assets.specs.reading import load_strictly
from retrain_assets_tests.projects import Project, document, yaml_of
from retrain_assets_tests.world import DATASET, MODEL

HEAD = "type: retrain_assets.LandedDataset\nattributes:\n"
COLUMNS = DATASET["columns"]


def line_of(text: str, part: str) -> int:
    """Where a part stands, which must be once."""
    found = [n for n, line in enumerate(text.splitlines(), start=1) if part in line]
    assert len(found) == 1, (part, found)
    return found[0]


# What is no YAML that reads in one way only: refused before Dagster's own loader sees it.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}  name: !!python/object/apply:os.system [ls]\n", "line 3: the tag 'tag:yaml.org"),
        (f"{HEAD}  name: !secret x\n", "line 3: the tag '!secret' is not supported: leave it out"),
        (f"{HEAD}  name: a\n  key: [b]\n  name: c\n", "line 5: attributes: 'name' stands twice, "),
        ("type: a\nattributes: {}\ntype: b\n", "line 3: 'type' stands twice, first on line 1"),
        (f"{HEAD}  1: x\n", "line 3: attributes: the key '1' is not text: put it in quotes"),
        (f"{HEAD}  [a]: x\n", "line 3: attributes: the key 'that is a collection' is not text"),
        (f"{HEAD}  key: [a\n", "line 4: did not find expected ',' or ']'"),
        (f"{HEAD}\tname: x\n", "line 3: found character that cannot start any token: indent"),
        (f"{HEAD}  key: *nowhere\n", "line 3: *nowhere names no finished anchor"),
        (f"{HEAD}  key: &x [*x]\n", "line 3: *x names no finished anchor"),
        ("", "line 1: is empty"),
        ("# nothing but words\n", "line 1: is empty"),
        ("- a\n- b\n", "line 1: document 1 is a list: write a mapping"),
        ("hello\n", "line 1: document 1 is a str"),
        (f"{yaml_of()}---\n- a\n", "document 3 is a list"),
        (f"{yaml_of()}---\n", "document 3 is empty"),
        (f"{HEAD}  name: a\x00b\n", "line 3: control characters are not allowed"),
        ((HEAD + "  name: é\n").encode("latin-1"), "line 3: is not UTF-8"),
        (f"{HEAD}  key: {'[' * 100_000}\n", "line 3: nested deeper than 40 levels"),
        ("#" * (2**20 + 1), "has 1,048,577 bytes: 1,048,576 are the most"),
    ],
    ids=range(20),
)
def test_what_is_not_sound_yaml_is_refused_first(
    project: Project, text: str | bytes, said: str
) -> None:
    project.write(text)
    refusal = project.refusal()
    assert refusal.startswith("mine/defs.yaml: ")
    assert said in refusal
    assert len(refusal) < 300


BOMB = """
import re, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from retrain_assets.definitions import build_defs
sys.path.insert(0, sys.argv[2])
try:
    build_defs(project=Path(sys.argv[1]))
except ValueError as error:
    # Its own peak; what getrusage tells begins with that of the process it was forked from.
    (peak,) = re.findall(r"VmHWM:[ \\t]*([0-9]+) kB", Path("/proc/self/status").read_text())
    print(error, int(peak) >> 10, sep="\\n")
"""


def test_an_anchor_bomb_costs_neither_time_nor_memory(project: Project) -> None:
    levels = [f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 30)]
    project.write(f"{HEAD}  l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n{''.join(levels)}")
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(project.package), str(project.root / "src")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said, megabytes = done.stdout.splitlines()
    assert (
        said == "mine/defs.yaml: line 7: its aliases stand for more than 50,000 values: use fewer"
    )
    assert int(megabytes) < 600


def test_an_alias_that_is_used_for_brevity_is_fine(project: Project) -> None:
    text = yaml_of().replace("x:\n      type: float\n", "x: &number\n      type: float\n", 1)
    text = text.replace("    plan:\n", "    z: *number\n    plan:\n", 1)
    project.write(text)
    assert project.load() is not None
    columns = load_strictly(project.package / "defs/mine/defs.yaml")[0].value["attributes"][
        "columns"
    ]
    assert columns["z"] == columns["x"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "type: a.B\natributes: {}\n",
            "line 2: atributes: unknown field: did you mean attributes?",
        ),
        ("type: a.B\npassword: hunter2canary\n", "line 2: password: unknown field; there are"),
        ("attributes: {}\n", "line 1: type: is needed: "),
        (
            "type: retrain_assets.LandedDatset\n",
            "line 1: type: no component 'LandedDatset': did you mean LandedDataset?",
        ),
        ("type: [a]\n", "line 1: type: input should be a valid string, found ['a']"),
        (yaml_of().replace("type: retrain", "type: 7 #", 1), "line 1: type: input should be a"),
        ("type: retrain_assets.LandedDataset\nattributes: x\n", "line 2: attributes: input should"),
        ("type: retrain_assets.LandedDataset\n", "line 1: attributes.name: is needed: Group and"),
    ],
)
def test_what_stands_beside_the_attributes_is_checked_too(
    project: Project, text: str, said: str
) -> None:
    project.write(text)
    refusal = project.refusal()
    assert f"mine/defs.yaml: {said}" in refusal
    assert "canary" not in refusal


# What is sound YAML and no sound spec: refused by the component, whoever loads it.


@pytest.mark.parametrize("plainly", [False, True], ids=["ours", "theirs"])
def test_every_mistake_is_a_line_of_its_own(project: Project, plainly: bool) -> None:
    columns = COLUMNS | {"x": {"type": "flaot", "min": "eleven", "personel": True}}
    text = yaml_of({"windwos": {}}, {"columns": columns, "qarantine": {}})
    project.write(text)
    expected = {
        "flaot": "columns.x.type: cannot be 'flaot': did you mean float?",
        "eleven": "columns.x.min: input should be a valid number, found 'eleven': write a "
        "number, such as 10 or 0.5",
        "personel": "columns.x.personel: unknown field: did you mean personal?",
        "qarantine": "qarantine: unknown field: did you mean quarantine?",
    }
    assert project.refusal(plainly=plainly).splitlines() == [
        f"mine/defs.yaml: line {line_of(text, part)}: attributes.{said}"
        for part, said in expected.items()
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("max_fraction: no", "max_fraction: input should be a valid number, found 'no'"),
        ("max_fraction: 1_0", "found '1_0'"),
        ("max_fraction: 0o1", "found '0o1'"),
        ("max_fraction: 00", "found '00'"),
        ("max_fraction: 0:30", "found '0:30'"),
        ("max_fraction: true", "found True"),
        ("max_fraction: .nan", "found '.nan'"),
        ("max_fraction: 1e999", "input should be a finite number, found inf"),
        ("max_fraction: 1.5", "input should be less than or equal to 1, found 1.5: Above this"),
        ("max_fraction: -1", "input should be greater than or equal to 0, found -1"),
        ("max_fraction: null", "found None"),
        ("max_fraction: [1]", "found [1]"),
        ("max_fraction: 2013-01-01", "found '2013-01-01'"),
        ("max_fration: 1", "max_fration: unknown field: did you mean max_fraction?"),
        ("on: 1", "on: unknown field; there are max_fraction"),
        ("<<: {max_fraction: 1}", "<<: unknown field; there are max_fraction"),
    ],
)
@pytest.mark.parametrize("plainly", [False, True], ids=["ours", "theirs"])
def test_words_and_numbers_are_what_they_look_like(
    project: Project, change: str, said: str, plainly: bool
) -> None:
    text = yaml_of(None, {"quarantine": "HERE"}).replace("HERE", f"{{{change}}}")
    project.write(text)
    refusal = project.refusal(plainly=plainly)
    assert refusal.startswith(
        f"mine/defs.yaml: line {line_of(text, 'quarantine')}: attributes.quarantine."
    )
    assert said in refusal


def test_text_that_yaml_1_1_would_change_stays_text(project: Project) -> None:
    words = "[NO, on, yes, 2013-01-01, 010, 0x1F, 1_000, 12:30, NULL, True, ~x]"
    columns = COLUMNS | {"plan": {"type": "category", "allowed": "HERE"}}
    project.write(yaml_of(None, {"columns": columns}).replace("HERE", words))
    dataset, _ = load_strictly(project.package / "defs/mine/defs.yaml")
    allowed = dataset.value["attributes"]["columns"]["plan"]["allowed"]
    assert allowed == words.strip("[]").split(", ")
    assert project.load_plainly() is not None


def test_a_small_number_in_exponents_is_a_number(project: Project) -> None:
    text = yaml_of(None, {"quarantine": {"max_fraction": "HERE"}}).replace("HERE", "5e-2")
    project.write(text)
    assert project.load() is not None


# What only shows beside other parts.


def column(**changes: Any) -> dict[str, Any]:
    return {"columns": COLUMNS | changes}


@pytest.mark.parametrize(
    ("model", "dataset", "field", "said"),
    [
        (
            {"target": {"column": "x", "kind": "binary", "expression": '"left"'}},
            {},
            "target.column",
            "the target x is among its own features: rename one",
        ),
        (
            {"target": {"column": "lft", "kind": "binary"}},
            {},
            "target.column",
            "customers has no such column: did you mean left?",
        ),
        (
            {"target": {"column": "gone", "kind": "binary", "expression": "lft > 0"}},
            {},
            "target.expression",
            "no column 'lft': did you mean left?",
        ),
        ({"weight": "weigth * 2"}, {}, "weight", "no column 'weigth'; there are day, id, left,"),
        ({"weight": "x >"}, {}, "weight", "is not valid: unable to parse"),
        ({"blocks": "palin"}, {}, "blocks", "no column 'palin': did you mean plan?"),
        (
            {"features": {"sql": "SELECT x, plna FROM rows"}},
            {},
            "features.sql",
            "no column 'plna': did you mean plan?",
        ),
        (
            {"features": {"sql": 'SELECT x, "left" FROM rows'}},
            {},
            "features.sql",
            "left is `known: later`, so no feature can see it",
        ),
        ({"features": {"sql": "DROP TABLE rows"}}, {}, "features.sql", "write SELECT … FROM rows"),
        (
            {},
            {"partition": {"by": "none"}, "landing": "customers.csv"},
            "dataset",
            "customers has no partitions, which windows are counted in",
        ),
        ({"features": {"sql": "SELEC x"}}, {}, "features.sql", "is not valid: write SELECT"),
        ({"features": {"sql": "SELECT x FROM row"}}, {}, "features.sql", "'row' was not found"),
        ({"features": {"sql": "SELECT day FROM rows"}}, {}, "features.sql", "is of type Date"),
        (
            {"gate": {"metric": "log_loss", "slices": ["plna"]}},
            {},
            "gate.slices.0",
            "no feature 'plna': did you mean plan?",
        ),
        (
            {"gate": {"metric": "log_loss", "slices": ["plan"]}},
            column(plan={"type": "category", "personal": True}),
            "gate.slices.0",
            "plan is `personal`",
        ),
        ({"gate": {"metric": "rmse"}}, {}, "gate.metric", "'rmse' does not judge a binary model"),
        (
            {"triggers": {"data_drift": {"measure": "ks", "threshold": 5}}},
            {},
            "triggers.data_drift",
            "threshold 5 is never met: ks ends at 1",
        ),
        (
            {"triggers": {"data_drift": {"threshold": -1}}},
            {},
            "triggers.data_drift.threshold",
            "input should be greater than 0, found -1",
        ),
        (
            {"triggers": {"data_drift": {"false_alarms_per_year": 0.5}}},
            {},
            "triggers.data_drift.false_alarms_per_year",
            "0.5 is not told from chance: a reference of 10 and windows.current 3 support 1.3",
        ),
        (
            {"triggers": {"target_drift": {"false_alarms_per_year": 366}}},
            {},
            "triggers.target_drift.false_alarms_per_year",
            "366 is not told from chance",
        ),
        (
            {"triggers": {"prediction_drift": {"false_alarms_per_year": 2}}},
            {},
            "triggers.prediction_drift.false_alarms_per_year",
            "is not offered for predictions: give a threshold",
        ),
        ({"schedule": "99 99 * * *"}, {}, "schedule", "'99 99 * * *' never comes"),
        ({"schedule": "0 0 30 2 *"}, {}, "schedule", "'0 0 30 2 *' never comes"),
        ({"schedule": "mondays"}, {}, "schedule", "found 'mondays': Cron that wakes the policy"),
        (
            {"exclude": [{"first": "2020-02-30", "last": "2020-03-01", "reason": "outage"}]},
            {},
            "exclude.0.first",
            "'2020-02-30' is no partition of customers: write it as 2020-01-01",
        ),
        (
            {"exclude": [{"first": "2020-02-01", "last": "2029-03-01", "reason": "outage"}]},
            {},
            "exclude.0.last",
            "'2029-03-01' is no partition of customers",
        ),
        (
            {"windows": {"train": 110, "holdout": 11}, "labels": {"delay": 1}},
            {},
            "windows",
            "need 122, but customers never has more than 121 partitions: shorten them",
        ),
        ({"dataset": "custmers"}, {}, "dataset", "no LandedDataset named 'custmers': did you mean"),
        (
            {"lookups": {"plans": {"on": ["plan"]}}},
            {},
            "lookups.plans",
            "no LandedDataset named 'plans'; there are customers",
        ),
        (
            {},
            {"partition": DATASET["partition"] | {"timezone": "Europe/Pari"}},
            "partition.timezone",
            "'Europe/Pari' is no IANA time zone: did you mean Europe/Paris",
        ),
        ({}, {"key": ["day", "idd"]}, "key", "'idd' is not among `columns`: did you mean id?"),
        (
            {},
            {"expectations": [{"type": "expect_x", "kwargs": {"column": "plam"}}]},
            "expectations.0.kwargs.column",
            "no column 'plam': did you mean plan?",
        ),
        (
            {},
            column(plan={"type": "category", "pattern": "(a"}),
            "columns.plan.pattern",
            "columns.plan.pattern: ",
        ),
        (
            {},
            column(y={"type": "float", "expression": "xx * 2"}),
            "columns.y.expression",
            "columns.y.expression: ",
        ),
        (
            {"estimator": {"class": "sklearn.ensemble.HistGradientBoostingClasifier"}},
            {},
            "estimator.class",
            (
                "has no sklearn.ensemble.HistGradientBoostingClasifier: did you mean "
                "sklearn.ensemble.HistGradientBoostingClassifier"
            ),
        ),
        (
            {"estimator": {"class": "sklearn.linear_model.SVC"}},
            {},
            "estimator.class",
            "did you mean sklearn.svm.SVC",
        ),
        (
            {"estimator": {"class": "sklearn.base.warnings"}},
            {},
            "estimator.class",
            "scikit-learn has no sklearn.base.warnings",
        ),
        ({"estimator": {"python": "nowhere:f"}}, {}, "estimator.python", "no module 'nowhere'"),
        (
            {"features": {"python": "json.decoder:JSONDecodr"}},
            {},
            "features.python",
            "no 'JSONDecodr' in json.decoder: did you mean JSONDecoder",
        ),
        ({"features": {"python": "json.nowhere:f"}}, {}, "features.python", "'json.nowhere'"),
        ({"notify": {"email": ["a@b.c\nBcc: d@e.f"]}}, {}, "notify.email.0", r"'a@b.c\nBcc: d@"),
        ({"owners": ["someone"]}, {}, "owners.0", "found 'someone': An e-mail address, or a team"),
    ],
)
def test_what_does_not_fit_the_rest_is_refused_by_field(
    project: Project, model: dict[str, Any], dataset: dict[str, Any], field: str, said: str
) -> None:
    project.write(yaml_of(model, dataset))
    refusal = project.refusal(plainly=True)
    assert refusal.startswith("mine/defs.yaml: line ")
    assert f": attributes.{field}: " in refusal
    assert said in refusal
    (line,) = {part.split(": ")[1] for part in refusal.splitlines()}
    shown = (project.package / "defs/mine/defs.yaml").read_text().splitlines()
    named = [part for part in field.split(".") if not part.isdigit()][-1]
    number = int(line.removeprefix("line "))
    assert named in shown[number - 1] or shown[number - 1].lstrip().startswith("- ")


@pytest.mark.parametrize(
    ("lookup", "columns", "said"),
    [
        ({"on": ["tariff"]}, {}, ".on.0: customers has no column 'tariff'"),
        ({"on": ["plan"]}, {"plan": {"type": "int"}}, ".on.0: plan is category in customers but"),
        ({"on": ["left"]}, {}, ".on.0: left is `known: later`, so it cannot be joined on"),
        (
            {"on": ["plan"]},
            {"plan": {"type": "category", "known": "later"}},
            ".on.0: plan is `known: later`, so it cannot be joined on",
        ),
        ({"on": ["plan"], "as_of": "when"}, {}, ".as_of: customers has no column 'when'"),
    ],
)
def test_a_lookup_that_cannot_be_joined_is_refused(
    project: Project, lookup: dict[str, Any], columns: dict[str, Any], said: str
) -> None:
    plans = DATASET | {"name": "plans", "columns": COLUMNS | columns}
    project.write(yaml_of({"lookups": {"plans": lookup}}, {}, document("LandedDataset", plans)))
    assert f"attributes.lookups.plans{said}" in project.refusal(plainly=True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (document("LandedDataset", DATASET), document("LandedDataset", DATASET)),
        (document("RetrainedModel", MODEL), document("RetrainedModel", MODEL)),
        (
            document("RetrainedModel", MODEL),
            document("LandedDataset", DATASET | {"name": MODEL["name"]}),
        ),
    ],
    ids=["datasets", "models", "both"],
)
def test_a_name_is_given_once_and_both_files_are_told(
    project: Project, first: dict[str, Any], second: dict[str, Any]
) -> None:
    project.write(yaml_of())
    project.write(yaml.safe_dump(first, sort_keys=False), folder="again")
    if first["type"] != second["type"]:
        project.write(yaml.safe_dump(second, sort_keys=False), folder="again")
    refusal = project.refusal(plainly=True)
    assert "mine/defs.yaml" in refusal
    assert "again/defs.yaml" in refusal
    assert f"{second['attributes']['name']!r} is also a" in refusal


@pytest.mark.parametrize("name", ["../x", "a\nb", "x" * 300, "X", "", "a b", "a';--", "ä", "1a"])
@pytest.mark.parametrize("part", ["model", "dataset"])
def test_a_name_that_cannot_be_a_name_is_refused_and_shown_escaped(
    project: Project, name: str, part: str
) -> None:
    project.write(yaml_of(**{part: {"name": name}}))
    refusal = project.refusal(plainly=True)
    assert "attributes.name: string should " in refusal
    assert "\n" not in refusal
    assert len(refusal) < 400


HOSTILE_KEYS = [
    "2013-02-30",
    "2013-1-5",
    "2019-12-31\n",
    "\uff12\uff10\uff12\uff10-01-01",
    "../../etc",
    "a'; DROP TABLE rows",
    "d' OR '1'='1",
    "",
]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_what_is_no_partition_key_never_gets_beyond_the_yaml(project: Project, key: str) -> None:
    exclude = {"exclude": [{"first": key, "last": key, "reason": "outage"}]}
    project.write(yaml_of(exclude))
    refusal = project.refusal(plainly=True)
    assert f"attributes.exclude.0.first: {key!r} is no partition of customers" in refusal
    project.write(yaml_of(None, {"partition": DATASET["partition"] | {"start": key}}))
    refusal = project.refusal(plainly=True)
    assert f"attributes.partition: {key!r} is no day from 1900 to 2199" in refusal


def test_a_message_is_one_legible_line_whatever_stands_in_the_file(project: Project) -> None:
    hostile = "a\x1b[31m\n\u202e<script>" + "x" * 10_000
    project.write(yaml_of({hostile: 1, "dataset": hostile}))
    for line in project.refusal(plainly=True).split("\n"):
        assert line.startswith("mine/defs.yaml: line ")
        assert line.isprintable()
        assert len(line) < 800


# Secrets and the environment.

SECRETS = [
    "postgresql://me:hunter2canary@db.example.org/x",
    "xoxb-1234567890-hunter2canary",
    "AKIAHUNTER2CANARY123",
    "ghp_hunter2canaryhunter2canary12",
    "-----BEGIN RSA PRIVATE KEY----- hunter2canary",
    "https://a.example.org/x?sig=hunter2canary",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_in_the_file_is_refused_and_not_repeated(project: Project, secret: str) -> None:
    text = yaml_of({"notify": {"slack": secret}})
    project.write(text)
    for plainly in (False, True):
        refusal = project.refusal(plainly=plainly)
        assert f"mine/defs.yaml: line {line_of(text, 'slack')}: holds what looks like a" in refusal
        assert "canary" not in refusal.lower()


def test_a_secret_in_a_comment_or_under_an_unknown_field_is_not_repeated(project: Project) -> None:
    project.write(f"# {SECRETS[1]}\n{yaml_of()}")
    assert "line 1: holds what looks like a token of Slack" in project.refusal()
    project.write(yaml_of({"password": "hunter2canary"}))
    refusal = project.refusal(plainly=True)
    assert "attributes.password: unknown field" in refusal
    assert "canary" not in refusal


def test_a_reference_to_the_environment_is_resolved(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_TEST_CHANNEL", "#night")
    monkeypatch.setenv("RETRAIN_TEST_WORD", "x")
    notify = {"slack": "{{ env.RETRAIN_TEST_CHANNEL }}"}
    features = {"sql": "SELECT {{env.RETRAIN_TEST_WORD}} AS a, plan FROM rows"}
    project.write(yaml_of({"notify": notify, "features": features}))
    tree = dg.ComponentTree.for_project(project.package)
    (model,) = tree.get_all_components(RetrainedModel)
    assert model.spec.notify.slack == "#night"
    assert model.spec.features.sql == "SELECT x AS a, plan FROM rows"


def test_an_unset_variable_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRAIN_TEST_CHANNEL", raising=False)
    text = yaml_of({"notify": {"slack": "{{ env.RETRAIN_TEST_CHANNEL }}"}})
    project.write(text)
    assert project.refusal(plainly=True) == (
        f"mine/defs.yaml: line {line_of(text, 'slack')}: attributes.notify.slack: "
        "RETRAIN_TEST_CHANNEL not set in the environment: set it for Dagster"
    )


@pytest.mark.parametrize(
    "template", ["{{ env('X') }}", "{{ dg.x }}", "{{ env.X | upper }}", "{{ env.X", "{{ env.1 }}"]
)
def test_any_other_template_is_refused(project: Project, template: str) -> None:
    project.write(yaml_of({"notify": {"slack": template}}))
    refusal = project.refusal(plainly=True)
    assert "attributes.notify.slack: cannot resolve " in refusal
    assert "only {{ env.NAME }} is supported" in refusal


@pytest.mark.parametrize(
    ("model", "dataset"),
    [
        ({"notify": {"slack": "{{ env.CANARY }}"}}, {}),
        ({"schedule": "{{ env.CANARY }}"}, {}),
        ({"name": "{{ env.CANARY }}"}, {}),
        ({"dataset": "{{ env.CANARY }}x"}, {}),
        ({"weight": "{{ env.CANARY }}"}, {}),
        ({"exclude": [{"first": "{{ env.CANARY }}", "last": "a", "reason": "b"}]}, {}),
        ({}, {"landing": "{{ env.CANARY }}"}),
        ({}, {"key": ["{{ env.CANARY }}"]}),
        ({}, {"partition": DATASET["partition"] | {"timezone": "{{ env.CANARY }}"}}),
        ({}, {"partition": DATASET["partition"] | {"start": "{{ env.CANARY }}"}}),
        ({}, {"read": {"settle": "{{ env.CANARY }}"}}),
    ],
)
def test_what_a_variable_holds_is_in_no_message(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, Any],
    dataset: dict[str, Any],
) -> None:
    monkeypatch.setenv("CANARY", "hunter2 'can\nary'" + "z" * 100)
    project.write(yaml_of(model, dataset))
    with pytest.raises(Exception, match=r"defs.yaml") as caught:
        project.load_plainly()
    told = "".join(traceback.format_exception(caught.value))
    assert "mine/defs.yaml: line " in told
    assert "hunter2" not in told


def test_a_secret_out_of_the_environment_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "hunter2")
    table = {"delta": "s3://me:{{ env.CANARY }}@bucket/x", "landing": None}
    project.write(yaml_of(None, table))
    refusal = project.refusal(plainly=True)
    assert "attributes.delta: CANARY makes it a password within a URL" in refusal
    assert "hunter2" not in refusal


# As a user meets it.


def test_dg_check_tells_file_line_and_field_and_passes_sound_yaml(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_TEST_CHANNEL", "#night")
    notify = {"slack": "{{ env.RETRAIN_TEST_CHANNEL }}"}
    lookups = {"notify": notify, "lookups": {"plans": {"on": ["plan"]}}}
    plans = document("LandedDataset", DATASET | {"name": "plans"})
    bare = yaml_of(lookups, {}, plans).replace("'on':", "on:")
    assert "\n      on:\n" in bare
    project.write(bare)
    sound = check(project)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    text = yaml_of(lookups | {"blocks": "palin"}, {}, plans)
    project.write(text)
    refused = check(project)
    assert refused.returncode != 0
    line = line_of(text, "palin")
    said = f"mine/defs.yaml: line {line}: attributes.blocks: no column 'palin': did you mean plan?"
    assert said in refused.stdout + refused.stderr


def check(project: Project) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(project.root / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "dagster_dg_cli.cli", "check", "defs"]
    return subprocess.run(
        command,
        cwd=project.root,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
