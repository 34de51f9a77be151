"""What the gate refuses for another reason than its metric, in the loop."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from retrain_assets.steps.decision.evaluate import evaluate, read_evaluation
from retrain_assets.stores.registry.registry import ModelRegistry
from retrain_assets_tests.world import MODEL, new_world


def test_a_better_candidate_that_a_guard_blocks_is_rejected_and_so_is_one_that_predicts_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guards = {"size": {"limit": 0.1}, "calibration": {"action": "warn", "limit": 0.5}}
    gate = MODEL["gate"] | {"guards": guards, "slices": ["plan"]}
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path, instance, gate=gate)
        world.land(*range(16))
        world.settle()
        world.land(*range(16, 36), slope=-2.0)
        world.settle()
        history = world.state.ledger.read()
        assert [row.action for row in history.rows] == ["promote", "reject"]
        refused = history.rows[-1]
        assert refused.reason.startswith("bytes: 1")
        assert "times" in refused.reason
        found = read_evaluation(world.state, refused.candidate or 0, refused.previous)
        assert found is not None
        seen = {guard["guard"]: guard["passed"] for guard in found.evidence["guards"]}
        assert seen == {"calibration": True, "size": False}

        load = ModelRegistry.load

        def spoiled(self: ModelRegistry, number: int, sha256: str) -> object:
            pipeline = load(self, number, sha256)
            if number == refused.candidate:
                pipeline[-1].coef_[:] = np.nan
            return pipeline

        monkeypatch.setattr(ModelRegistry, "load", spoiled)
        again = evaluate(world.state, history, "test")
        assert again.verdict == "REJECT"
        assert "predictions are not finite" in again.reason
