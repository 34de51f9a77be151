"""A code server forks its runs from a process that has imported what they need."""

import inspect
import multiprocessing
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from dagster._grpc.server import DagsterApiServer

from retrain_assets.orchestration.dagster_internals import warm


def test_only_a_code_server_that_lasts_forks_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    context, timer = Mock(multiprocessing.get_context("forkserver")), Mock()
    monkeypatch.setattr(
        multiprocessing, "get_context", lambda method: {"forkserver": context}[method]
    )
    monkeypatch.setattr(warm, "Timer", timer)
    monkeypatch.setattr(warm, "_imported", [])

    class Server:
        _mp_ctx: object = "spawn"

    server = Server()
    server._mp_ctx = "spawn"  # before the definitions are loaded, as Dagster does
    monkeypatch.setitem(sys.modules, warm.SERVER, SimpleNamespace(DagsterApiServer=Server))
    for arguments in (["dev"], ["api", "grpc", "--heartbeat"]):
        monkeypatch.setattr(sys, "argv", ["dagster", *arguments])
        warm.warm()
        assert server._mp_ctx == "spawn"
    monkeypatch.setattr(sys, "argv", ["dagster", "api", "grpc"])
    warm.warm()
    warm.warm(warm.EXPECTATIONS)
    assert server._mp_ctx is context
    context.set_forkserver_preload.assert_called_with([*warm.IMPORTED, warm.EXPECTATIONS])
    timer.return_value.start.assert_called_once_with()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "the server of this run")
    assert not warm._is_lasting_server()


def test_dagsters_server_starts_runs_by_the_context_that_is_replaced() -> None:
    for part in ("self._mp_ctx = multiprocessing.get_context", "self._mp_ctx.Process("):
        assert part in inspect.getsource(DagsterApiServer)
