"""The YAML becomes definitions, in anybody's project; a run keeps what it started with."""

from __future__ import annotations

import sys
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from sklearn.base import ClassifierMixin, RegressorMixin

import retrain_assets
from retrain_assets import LandedDataset, RetrainedModel
from retrain_assets.components import code_check
from retrain_assets.components.code_check import mistaken_class, mistaken_function
from retrain_assets.definitions import component_tree
from retrain_assets.orchestration.dagster_internals.ticks import InProcessDaemon
from retrain_assets.orchestration.partitions import range_tags
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.specs.base import SpecError
from retrain_assets_tests.projects import Project, document, yaml_of
from retrain_assets_tests.world import DATASET, MODEL, customers, key


def asset_keys(definitions: dg.Definitions) -> set[str]:
    graph = definitions.resolve_asset_graph()
    return {found.to_user_string() for found in graph.get_all_asset_keys()}


@pytest.mark.parametrize("plainly", [False, True], ids=["ours", "theirs"])
def test_one_yaml_file_makes_datasets_and_models_in_another_project(
    project: Project, plainly: bool
) -> None:
    project.write(yaml_of())
    keys = asset_keys(project.load_plainly() if plainly else project.load())
    assert {"customers/dataset", "churn/features", "churn/production_model"} <= keys


def test_a_model_may_stand_in_another_file_than_its_dataset(project: Project) -> None:
    second = document("RetrainedModel", MODEL | {"name": "two"})
    project.write(yaml_of())
    project.write(yaml.safe_dump(second), folder="deep/er")
    assert {"churn/evaluation", "two/evaluation"} <= asset_keys(project.load_plainly())


def test_a_component_made_in_python_says_which_attribute_is_wrong() -> None:
    assert LandedDataset.from_attributes_dict(attributes=DATASET).spec.name == "customers"
    with pytest.raises(SpecError, match=r"attributes\.nam: unknown field: did you mean name"):
        LandedDataset.from_attributes_dict(attributes=DATASET | {"nam": "x"})


def test_the_package_offers_its_two_components() -> None:
    assert {LandedDataset.__name__, RetrainedModel.__name__} == set(retrain_assets.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        retrain_assets.nothing  # noqa: B018


def test_the_components_of_a_project_are_read_strictly_before_dagster_reads_them(
    project: Project,
) -> None:
    project.write(yaml_of().replace("name: churn", "name: churn\n  name: churn"))
    with pytest.raises(SpecError, match=r"line \d+: attributes: 'name' stands twice"):
        component_tree(project.package)


EDITOR = """
from pathlib import Path
def features(rows):
    Path({path!r}).write_text("attributes: [no longer sound")
    return rows.select("x", "plan")
"""


def test_a_run_keeps_the_spec_it_started_with(
    project: Project, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    storage, reference = tmp_path / "data", f"{project.name}.own:features"
    path = project.write(yaml_of({"features": {"python": reference}}))
    (project.package / "own.py").write_text(EDITOR.format(path=str(path)), encoding="utf-8")
    landing = storage / "landing" / "customers"
    landing.mkdir(parents=True)
    customers(0).write_csv(landing / f"{key(0)}.csv")
    loaded = project.load_plainly()
    definitions = dg.Definitions(
        assets=loaded.assets,
        asset_checks=loaded.asset_checks,
        jobs=loaded.jobs,
        resources={**(loaded.resources or {}), "storage": StorageResource(root=str(storage))},
        executor=dg.in_process_executor,
    )
    daemon = InProcessDaemon(definitions, instance)
    daemon.execute("customers_ingest", range_tags(key(0), key(0)), {})
    assert "no longer sound" not in path.read_text(encoding="utf-8")
    daemon.execute("churn_monitor", range_tags(key(0), key(0)), {})
    assert "no longer sound" in path.read_text(encoding="utf-8")
    for table in ("features", "profile"):
        assert pl.read_delta(str(storage / "delta/churn" / table)).height > 0
    with pytest.raises(SpecError, match=r"mine/defs.yaml: line 1: did not find expected"):
        project.load()


# Names of Python things, told from source files.


def test_the_name_of_a_class_is_looked_up_in_the_files_of_scikit_learn() -> None:
    names = real_classes()
    assert len(names) > 80
    assert {name: why for name in names if (why := mistaken_class(name))} == {}
    assert "did you mean sklearn.svm.SVR or sklearn.svm.SVC?" in str(
        mistaken_class("sklearn.svm.SCV")
    )
    assert "did you mean sklearn.svm.SVC" in str(mistaken_class("sklearn.linear_model.SVC"))
    assert mistaken_class("sklearn.nowhere.SVC") is not None


def test_arguments_and_kinds_are_read_as_scikit_learn_has_them() -> None:
    for path in real_classes():
        module, _, name = path.rpartition(".")
        estimator = getattr(import_module(module), name)
        classes = list(code_check.read_class(module, name))
        parameters = list(signature(estimator).parameters.values())
        required = [part.name for part in parameters if part.default is part.empty]
        names = [part.name for part in parameters]
        assert code_check.read_arguments(classes) == (names, required)
        rules = code_check.read_value_rules(classes)
        for part in (part for part in parameters if part.name not in required):
            value = [*part.default] if type(part.default) is tuple else part.default
            assert code_check.allows_value(rules.get(part.name), value)
        bases = {base.name for base in classes}
        assert ("ClassifierMixin" in bases) == issubclass(estimator, ClassifierMixin)
        assert ("RegressorMixin" in bases) == issubclass(estimator, RegressorMixin)


def real_classes() -> list[str]:
    from sklearn.utils import all_estimators

    kinds: Any = all_estimators(type_filter=["classifier", "regressor"])
    return [f"{found.__module__.partition('._')[0]}.{name}" for name, found in kinds]


@pytest.mark.parametrize(
    ("source", "named", "said"),
    [
        ("def make(): ...\n", "make", None),
        ("async def make(): ...\n", "make", None),
        ("make = 1\n", "make", None),
        ("from json import dumps as make\n", "make", None),
        ("try:\n    import json as make\nexcept ImportError:\n    make = None\n", "make", None),
        ("from json import *\n", "make", None),
        ("def __getattr__(name): ...\n", "make", None),
        ("this is no Python", "make", None),  # told when it is imported
        ("def mkae(): ...\n", "make", "no 'make' in {module}: did you mean mkae?"),
        ("class A:\n    def make(self): ...\n", "make", "no 'make' in {module}; there are A"),
        ("", "make", "no 'make' in {module}; there are none"),
    ],
)
def test_a_function_is_looked_for_without_running_its_module(
    project: Project, source: str, named: str, said: str | None
) -> None:
    (project.package / "own.py").write_text(
        f"{source}\nimport sys\nsys.exit('it was imported')\n" if source else "", encoding="utf-8"
    )
    module = f"{project.name}.own"
    found = mistaken_function(f"{module}:{named}")
    expected = said and said.format(module=module)
    assert (found or "").replace("A, sys", "A") == (expected or "")
    assert module not in sys.modules


@pytest.mark.parametrize("module", ["nowhere", "json.nowhere", "json..x", "a.b.c", "bare", "sys.x"])
def test_a_module_that_is_not_there_is_told(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bare", ModuleType("bare"))  # as a script's `__main__` is
    assert f"no module {module!r}" in (mistaken_function(f"{module}:f") or "")


@pytest.mark.parametrize("reference", ["math:sin", "polars:DataFrame", "numpy.linalg:norm"])
def test_what_only_importing_would_tell_is_left_to_the_run(reference: str) -> None:
    assert mistaken_function(reference) is None
