"""A code server forks its runs from a process that has imported what they need."""

import inspect
import multiprocessing
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from dagster._grpc.server import DagsterApiServer

from retrain_assets.orchestration.dagster_internals import warm


def test_only_a_code_server_forks_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Mock(multiprocessing.get_context("forkserver"))
    monkeypatch.setattr(
        multiprocessing, "get_context", lambda method: {"forkserver": context}[method]
    )
    monkeypatch.delitem(sys.modules, warm.SERVER)
    warm.warm()
    context.set_forkserver_preload.assert_not_called()

    class Server:
        _mp_ctx: object = "spawn"

    server = Server()
    server._mp_ctx = "spawn"  # before the definitions are loaded, as Dagster does
    monkeypatch.setitem(sys.modules, warm.SERVER, SimpleNamespace(DagsterApiServer=Server))
    monkeypatch.setattr(warm, "_imported", [*warm.IMPORTED])
    warm.warm(warm.EXPECTATIONS)
    assert server._mp_ctx is context
    context.set_forkserver_preload.assert_called_once_with([*warm.IMPORTED, warm.EXPECTATIONS])


def test_dagsters_server_starts_runs_by_the_context_that_is_replaced() -> None:
    for part in ("self._mp_ctx = multiprocessing.get_context", "self._mp_ctx.Process("):
        assert part in inspect.getsource(DagsterApiServer)
