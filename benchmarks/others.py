"""CPU seconds that Evidently and NannyML take to hold one parquet file of rows against another.

Run by `monitoring.py` in an interpreter of its own, since the versions of what they need differ
from the project's: python others.py REFERENCE CURRENT
"""

from __future__ import annotations

import json
import sys
import time

import pandas as pd


def main(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, float]:
    """Seconds by name."""
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


if __name__ == "__main__":
    print(json.dumps(main(*(pd.read_parquet(file) for file in sys.argv[1:]))))
