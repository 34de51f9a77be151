"""Evidently and NannyML on one parquet file of rows against another: CPU seconds, or measures.

Run by `monitoring.py` and `parity.py` in an interpreter of its own, since the versions of what they
need differ from the project's: python others.py REFERENCE CURRENT [parity]
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pandas as pd


def seconds(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, float]:
    """By name, of all columns by each one's own defaults."""
    import nannyml
    from evidently import Report
    from evidently.presets import DataDriftPreset

    found = {}
    began = time.process_time()
    Report([DataDriftPreset()]).run(current, reference)
    found["Evidently"] = time.process_time() - began
    began = time.process_time()
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=list(reference.columns), chunk_size=len(current)
    )
    calculator.fit(reference)
    calculator.calculate(current)
    found["NannyML"] = time.process_time() - began
    return found


def measures(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, Any]:
    """By name, column and measure; what one does not offer is left out."""
    return {
        "evidently": _evidently(reference, current),
        "nannyml": _nannyml(reference, current),
    }


def _evidently(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, dict[str, float]]:
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    tests = {"psi": "psi", "jensen_shannon": "jensenshannon"}
    found: dict[str, dict[str, float]] = {}
    for name in reference.columns:
        number = pd.api.types.is_numeric_dtype(reference[name])
        kind = ColumnType.Numerical if number else ColumnType.Categorical
        sides = reference[name].dropna(), current[name].dropna()
        asked = tests | ({"wasserstein": "wasserstein"} if number else {})
        found[name] = {
            measure: float(get_stattest(*sides, kind, test)(*sides, kind, 0.1).drift_score)
            for measure, test in asked.items()
        }
    return found


def _nannyml(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, dict[str, float]]:
    import nannyml

    calculator = nannyml.UnivariateDriftCalculator(
        column_names=list(reference.columns),
        continuous_methods=["kolmogorov_smirnov", "jensen_shannon", "wasserstein"],
        categorical_methods=["jensen_shannon", "chi2"],
        chunk_size=len(current),
    )
    calculator.fit(reference)
    table = calculator.calculate(current).filter(period="analysis").to_df()
    names = {"kolmogorov_smirnov": "ks", "chi2": "chi_squared"}
    found: dict[str, dict[str, float]] = {}
    for column, method, field in table.columns:
        if field == "value" and column in reference.columns:
            measure = names.get(method, method)
            found.setdefault(column, {})[measure] = float(table[column, method, field].iloc[0])
    return found


if __name__ == "__main__":
    frames = [pd.read_parquet(file) for file in sys.argv[1:3]]
    print(json.dumps((measures if "parity" in sys.argv else seconds)(*frames)))
