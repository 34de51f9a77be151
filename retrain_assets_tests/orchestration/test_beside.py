"""Work beside this process."""

import os
import warnings
from pathlib import Path

import pytest

from retrain_assets.orchestration import beside


def write_process(path: Path) -> None:
    warnings.warn("this is noise", FutureWarning, stacklevel=1)
    path.write_text(str(os.getpid()), encoding="utf-8")


def test_work_is_done_in_another_process_and_its_failure_names_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    warnings.simplefilter("ignore", FutureWarning)
    here, there = tmp_path / "here", tmp_path / "there"
    beside.do("again", write_process, here)
    assert here.read_text() == str(os.getpid())
    with beside.open_process():
        beside.do("again", write_process, there)
        beside.do("try it again", write_process, tmp_path / "none" / "file")
    assert there.read_text() != here.read_text()
    assert "FileNotFoundError" in caplog.text
    assert "try it again" in caplog.text
    assert "noise" not in capfd.readouterr().err
