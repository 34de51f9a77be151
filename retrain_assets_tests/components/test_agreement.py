"""What does not fit the other parts is refused by file, line and field as the definitions load."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import yaml

from retrain_assets.definitions import datasets, models
from retrain_assets.specs.base import SpecError
from retrain_assets_tests.projects import Project, document, line_of, yaml_of
from retrain_assets_tests.world import DATASET, MODEL

COLUMNS = DATASET["columns"]
WEEKLY = DATASET["partition"] | {"by": "week", "start": "2019-12-30", "end": "2029-12-31"}


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
        ({"descriptions": {"plna": "the plan"}}, {}, "descriptions.plna", "did you mean plan?"),
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
        (
            {"schedule": "mondays"},
            {},
            "schedule",
            "found 'mondays': Cron schedule on which the triggers are evaluated",
        ),
        (
            {"exclude": [{"first": "2020-02-30", "last": "2020-03-01", "reason": "outage"}]},
            {},
            "exclude.0.first",
            "'2020-02-30' is not a partition of customers: write it as 2020-01-01",
        ),
        (
            {"exclude": [{"first": "2020-02-01", "last": "2029-03-01", "reason": "outage"}]},
            {},
            "exclude.0.last",
            "'2029-03-01' is not a partition of customers",
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
            "'Europe/Pari' is not an IANA time zone: did you mean Europe/Paris",
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
            {"estimator": {"class": "sklearn.linear_model.Ridge"}},
            {},
            "estimator.class",
            "sklearn.linear_model.Ridge is not a classifier, which target.kind binary needs",
        ),
        (
            {"estimator": {"class": "sklearn.svm.LinearSVC"}},
            {},
            "estimator.class",
            "sklearn.svm.LinearSVC gives no probabilities",
        ),
        (
            {"estimator": {"class": "sklearn.svm.SVC"}},
            {},
            "estimator.class",
            "sklearn.svm.SVC gives probabilities only with params: {probability: true}",
        ),
        (
            {"estimator": {"class": "sklearn.linear_model.SGDClassifier", "params": {"loss": "x"}}},
            {},
            "estimator.class",
            'only with params: {loss: "log_loss" or "modified_huber"}',
        ),
        (
            {"estimator": {"class": "sklearn.naive_bayes.CategoricalNB"}},
            {},
            "estimator.class",
            "takes categories as whole numbers",
        ),
        (
            {"estimator": {"class": "sklearn.ensemble.VotingClassifier"}},
            {},
            "estimator.class",
            "sklearn.ensemble.VotingClassifier needs estimators: build it in a function",
        ),
        (
            {"estimator": {"class": "sklearn.svm.SVC", "params": {"gama": 1}}},
            {},
            "estimator.params.gama",
            "sklearn.svm.SVC takes no 'gama': did you mean gamma?",
        ),
        (
            {"budget": {"fits_per_month": 4}, "windows": {"also": [30]}},
            {"partition": WEEKLY},
            "windows.also",
            "30 is not below train, which is 20 by the budget: shorten it, or give `train`",
        ),
        (
            {"estimator": {"class": "sklearn.svm.SVC", "params": {"C": 0, "probability": True}}},
            {},
            "estimator.params.C",
            "The 'C' parameter of SVC must be a float in the range (0.0, inf]. Got 0",
        ),
        (
            {
                "estimator": {
                    "class": "sklearn.ensemble.RandomForestClassifier",
                    "search": {"params": {"max_depth": {"low": -3, "high": 3, "whole": True}}},
                }
            },
            {},
            "estimator.search.params.max_depth",
            "The 'max_depth' parameter of RandomForestClassifier must be an int in the range [1,",
        ),
        (
            {
                "estimator": {
                    "class": "sklearn.svm.SVC",
                    "search": {"params": {"c": {"values": [1, 2]}}},
                }
            },
            {},
            "estimator.search.params.c",
            "sklearn.svm.SVC takes no 'c'",
        ),
        (
            {
                "labels": {"delay": 7},
                "estimator": {
                    "class": "sklearn.svm.SVC",
                    "params": {"probability": True},
                    "search": {"folds": 3, "params": {"C": {"values": [1, 2]}}},
                },
            },
            {},
            "estimator.search.folds",
            "3 folds need 11 training partitions with labels.delay 7, the shortest window has 10",
        ),
        (
            {"windows": {"train": 10, "holdout": 3}},
            {},
            "gate.min_blocks",
            "4 blocks are asked for and windows.holdout has 3 partitions",
        ),
        (
            {"features": {"python": "json.decoder:JSONDecodr"}},
            {},
            "features.python",
            "no 'JSONDecodr' in json.decoder: did you mean JSONDecoder",
        ),
        ({"features": {"python": "json.nowhere:f"}}, {}, "features.python", "'json.nowhere'"),
        ({"notify": {"email": ["a@b.c\nBcc: d@e.f"]}}, {}, "notify.email.0", r"'a@b.c\nBcc: d@"),
        (
            {"features": {"sql": "SELECT x AS _amount FROM rows"}},
            {},
            "features.sql",
            "the feature '_amount' begins with an underscore",
        ),
        *(
            ({}, {"expectations": [expectation]}, "expectations.0.type", "how many partitions")
            for expectation in (
                {"type": "expect_table_row_count_to_be_between", "kwargs": {"max_value": 9}},
                {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}},
                {"type": "expect_column_values_to_be_increasing", "kwargs": {"column": "id"}},
                {"type": "expect_column_quantile_values_to_be_between", "kwargs": {"column": "x"}},
                {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "x"}},
                {
                    "type": "expect_column_values_to_be_between",
                    "kwargs": {"column": "x", "max_value": 9, "mostly": 0.9},
                },
            )
        ),
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
    assert f"attributes.exclude.0.first: {key!r} is not a partition of customers" in refusal
    project.write(yaml_of(None, {"partition": DATASET["partition"] | {"start": key}}))
    refusal = project.refusal(plainly=True)
    assert f"attributes.partition: {key!r} is not a valid day from 1900 to 2199" in refusal


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


def test_dg_check_tells_the_mistakes_of_all_documents_at_once_and_in_our_words(
    project: Project,
) -> None:
    plans = DATASET | {"name": "plans", "columns": COLUMNS | {"x": {"type": "text", "min": 1}}}
    more = [document("LandedDataset", plans), document("RetrainedModel", MODEL | {"nam": 1})]
    text = yaml_of(
        {"gate": {"metric": "auc"}}, column(x={"type": "int", "min": 2, "max": 1}), *more
    )
    project.write(text)
    refused = check(project)
    assert refused.returncode != 0
    output = refused.stdout + refused.stderr
    line = line_of(text, "metric: auc")
    assert "not valid under any of the given schemas" not in output
    assert f"line {line}: attributes.gate.metric: cannot be 'auc': did you mean roc_auc?" in output
    assert "attributes.columns.x: min 2 is above max 1" in output
    assert "attributes.columns.x: `min`, `max` and `outliers` need type int or float" in output
    assert "attributes.nam: unknown field: did you mean name?" in output


def test_the_specs_for_commands_are_refused_for_the_same_mistakes_of_all_components(
    project: Project,
) -> None:
    derived = column(y={"type": "float", "expression": "lft * 2"})
    project.write(yaml_of({"blocks": "palin"}, derived))
    refusal = project.refusal(plainly=True)
    assert 'attributes.columns.y.expression: is not valid: unable to find column "lft"' in refusal
    assert "attributes.blocks: no column 'palin'" in refusal
    for specs in (models, datasets):
        with pytest.raises(SpecError, match='unable to find column "lft"'):
            specs(project.package)


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
