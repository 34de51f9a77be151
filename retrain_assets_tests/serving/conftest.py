"""One site that no test changes, and its service."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from retrain_assets_tests.serving.site import Site, listening, new_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return new_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def client(site: Site) -> Iterator[httpx.Client]:
    with listening(site.service()) as opened:
        yield opened
