"""The pages for people: what is linked is there, and nothing else is read."""

from __future__ import annotations

import re
from base64 import b64encode

import httpx
import pytest

from retrain_assets_tests.serving.site import Site, listening


def test_the_list_leads_to_a_model_and_that_to_its_cards(site: Site, client: httpx.Client) -> None:
    models = client.get("/")
    assert models.headers["content-type"] == "text/html; charset=utf-8"
    (link,) = re.findall('<a href="([^"]+)"', models.text)
    page = client.get(models.url.join(link))
    assert "<title>churn</title>" in page.text
    back, *cards = [page.url.join(link) for link in re.findall('href="([^"]+)"', page.text)]
    assert back == models.url
    (site.storage.cards / "churn").write("card-1.html", b"the card")
    assert {client.get(address).text for address in cards} == {"the card"}


@pytest.mark.parametrize("version", ["2", "x", "..%2f..%2fcard-1", "-1", "1" * 5000, "%00"])
def test_a_card_that_was_not_written_is_not_there(client: httpx.Client, version: str) -> None:
    refused = client.get(f"/models/churn/cards/{version}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")


def test_an_unknown_model_is_answered_with_those_that_there_are(client: httpx.Client) -> None:
    refused = client.get("/models/chrun")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (404, "not_found")
    assert error["message"] == "there is no such model; there are churn"
    assert client.get("/models/churn/predict").status_code == 405


def test_a_page_is_rendered_again_when_a_decision_is_made(site: Site) -> None:
    pages = site.service().pages
    first = pages.show_model("churn")
    assert pages.show_model("churn") is first
    site.state.ledger.write_pause(None, {"action": "resume", "reason": "now", "by": "ann"})
    assert pages.show_model("churn") is not first


def test_a_browser_sends_the_key_as_a_password(site: Site) -> None:
    with listening(site.service(keys=("one",))) as client:
        refused = client.get("/", headers={"accept": "text/html,*/*"})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic realm=")
        for password, status in {"one": 200, "two": 401, "": 401}.items():
            assert client.get("/", auth=("ann", password)).status_code == status
        for credentials in ("=", "é", b64encode(b"one").decode()):
            headers = {"authorization": f"Basic {credentials}".encode()}
            assert client.get("/", headers=headers).status_code == 401
