"""An evaluation is read as it was stored, and its JSON is that of the standard."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from retrain_assets.domain.decision.gate import Verdict
from retrain_assets.steps.decision import evaluate
from retrain_assets.stores.tables.tables import Tables


def test_undefined_and_unbounded_numbers_are_null_in_the_stored_json(tmp_path: Path) -> None:
    state: Any = SimpleNamespace(tables=Tables(str(tmp_path)), table="m/{}".format)
    comparison = {"gain": 0.5, "low": -math.inf, "high": math.inf, "block_gains": {"a": None}}
    evaluation = evaluate.Evaluation(
        candidate=2,
        production=1,
        as_of="2024-01-09",
        holdout_from="2024-01-08",
        holdout_to="2024-01-09",
        verdict=Verdict.HOLD,
        reason="too few blocks",
        more_partitions=None,
        metrics={"log_loss": 0.25},
        evidence={"comparison": comparison},
    )
    evaluate._store(state, evaluation, "run")
    (text,) = state.tables.scan("m/evaluation").collect()["evidence"]
    assert json.loads(text)["comparison"]["low"] is None
    assert "Infinity" not in text
    assert evaluate.read_evaluation(state, 2, 1) == evaluation
