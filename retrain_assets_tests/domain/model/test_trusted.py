"""A transformer of the user's own is loaded only where the YAML trusts it by its name."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import skops.io
from pydantic import ValidationError

from retrain_assets.components.code_check import find_code_mistakes
from retrain_assets.domain.model.estimator import fit, predict
from retrain_assets.specs.model import ModelSpec
from retrain_assets.stores.registry.model_check import write_example
from retrain_assets.stores.registry.model_file import ModelFileError, digest, load_model
from retrain_assets_tests.world import MODEL, check_file

PARTS = """
from sklearn.base import BaseEstimator, TransformerMixin

class Clip(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.low_, self.high_ = X.min(axis=0), X.max(axis=0)
        return self

    def transform(self, X):
        return X.clip(self.low_, self.high_)

class Settings:
    steps = 3
"""
MAKING = """
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from mine import parts
from .parts import Settings
import json, mine.parts as again

def make():
    return json.loads("1") and assemble(Settings(), *"ab")

def assemble(settings, *names):
    return make_pipeline(parts.Clip(), LogisticRegression())
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of the user, whose function makes a pipeline with a transformer of theirs."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in {"__init__": "", "parts": PARTS, "making": MAKING}.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def model(*trusted: str, **estimator: Any) -> ModelSpec:
    given = {"python": "mine.making:make", "trusted": list(trusted)} | estimator
    return ModelSpec.model_validate(MODEL | {"estimator": given})


@pytest.mark.parametrize("call", ["parts.Clip", "again.Clip"])
def test_the_line_that_would_trust_it_is_told_when_definitions_load(
    call: str, package: Path
) -> None:
    (package / "making.py").write_text(MAKING.replace("parts.Clip", call), encoding="utf-8")
    ((loc, why),) = find_code_mistakes(model())
    assert loc == ("estimator", "python")
    assert "it makes mine.parts.Clip, whose code runs whenever a model is loaded" in why
    assert why.endswith("write estimator.trusted: [mine.parts.Clip]")
    assert [*find_code_mistakes(model("mine.parts.Clip"))] == []
    ((loc, why),) = find_code_mistakes(model("mine.parts.Clip", "mine.parts.Clap"))
    assert (loc[-1], "did you mean Clip" in why) == (1, True)
    assert "mine" not in sys.modules


def test_it_is_loaded_here_and_in_another_process_where_it_is_trusted(
    package: Path, tmp_path: Path
) -> None:
    rows = pl.DataFrame({"x": np.random.default_rng(0).normal(size=200)})
    left = (rows["x"] > 0).cast(pl.Int64)
    trusted = ["mine.parts.Clip"]
    pipeline = fit(model(*trusted), rows, left, pl.Series(["d"] * 200)).pipeline
    content, expected = skops.io.dumps(pipeline), predict(pipeline, "binary", rows)
    sha256 = digest(content)
    with pytest.raises(ModelFileError, match=r"write estimator.trusted: \[mine.parts.Clip\]"):
        load_model(content, sha256, "a model")
    loaded = load_model(content, sha256, "a model", trusted)
    assert predict(loaded, "binary", rows).tolist() == expected.tolist()
    path, example = tmp_path / "model.skops", tmp_path / "example.parquet"
    path.write_bytes(content)
    write_example(example, rows, expected)
    checked = check_file(path, sha256, example, "binary", trusted)
    assert checked.passed, checked.detail
    (package / "parts.py").unlink()
    del sys.modules["mine.parts"]
    with pytest.raises(ModelFileError, match="put its module on PYTHONPATH"):
        load_model(content, sha256, "a model", trusted)


@pytest.mark.parametrize(
    "path", ["os.system", "builtins.eval", "retrain_assets.cli.main", "Clip", "a.<b>.C", "a.b.c d"]
)
def test_what_could_run_any_command_is_not_trusted(path: str) -> None:
    with pytest.raises(ValidationError, match="is not a class or function of a module of yours"):
        model(path)


def test_a_model_that_trusts_nothing_keeps_its_recipe() -> None:
    assert "trusted" not in model().model_dump_json()
