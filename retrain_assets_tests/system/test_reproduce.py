"""Every version of the flights is built again bit for bit, of ten times as many as well."""

from __future__ import annotations

import subprocess
import sys

import pytest

from retrain_assets_tests.system.conftest import ROOT

pytestmark = pytest.mark.system

SECONDS = 900


@pytest.mark.parametrize("scale", [1, 10])
def test_the_gated_version_of_the_flights_and_its_refit_are_built_again(scale: int) -> None:
    script = [ROOT / "benchmarks" / "retrain.py", "--scale", str(scale), "--only", "reproduce"]
    done = subprocess.run(
        [sys.executable, *script], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [line.strip() for line in done.stdout.splitlines() if line.startswith("  version")]
    assert found == [f"version {number}: identical bit for bit" for number in (1, 2)]
