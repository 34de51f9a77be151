"""Messages reach Slack as they are meant, and a Slack that fails breaks nothing."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from retrain_assets.orchestration.resources import SlackNotifications
from retrain_assets.stores.notify import Notifier

LOG = logging.getLogger("messages")


class Slack(ThreadingHTTPServer):
    """Takes `chat.postMessage` as Slack does, over a real socket."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[dict[str, str]] = []
        self.tokens: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api"


class _Handler(BaseHTTPRequestHandler):
    server: Slack

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.headers["Content-Type"].startswith("application/json"):
            message = json.loads(body)
        else:
            message = {name: values[0] for name, values in parse_qs(body).items()}
        self.server.messages.append({"path": self.path, **message})
        self.server.tokens.append(self.headers["Authorization"])
        answer = json.dumps({"ok": self.server.status == 200, "error": "internal_error"}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-canary")
    server = Slack()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_message_arrives_in_its_channel_with_the_token(slack: Slack) -> None:
    notifier = SlackNotifications(base_url=slack.url).notifier(LOG)
    assert notifier.tell("#ml", "churn: promote version 3")
    (message,) = slack.messages
    assert message["path"] == "/api/chat.postMessage"
    assert (message["channel"], message["text"]) == ("#ml", "churn: promote version 3")
    assert slack.tokens == ["Bearer xoxb-canary"]


def test_text_from_data_cannot_become_a_mention_or_link(slack: Slack) -> None:
    notifier = SlackNotifications(base_url=slack.url).notifier(LOG)
    notifier.tell("#ml", "refused <!channel> & <https://evil>")
    assert slack.messages[0]["text"] == "refused &lt;!channel&gt; &amp; &lt;https://evil&gt;"


def test_a_failing_slack_is_logged_and_raises_nothing(
    slack: Slack, caplog: pytest.LogCaptureFixture
) -> None:
    slack.status = 500
    notifier = SlackNotifications(base_url=slack.url).notifier(LOG)
    assert not notifier.tell("#ml", "hello")
    assert "Slack did not take the message for #ml" in caplog.text
    assert "xoxb-canary" not in caplog.text


def test_a_slack_that_is_not_there_raises_nothing(slack: Slack) -> None:
    gone = "http://127.0.0.1:9/api"
    assert not SlackNotifications(base_url=gone).notifier(LOG).tell("#ml", "hello")


def test_without_a_token_the_message_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert not Notifier(None, LOG).tell("#ml", "churn: hold version 2")
    assert "churn: hold version 2" in caplog.text


def test_the_token_is_no_part_of_any_configuration() -> None:
    assert set(SlackNotifications.model_fields) == {"base_url"}
    assert "token" not in repr(SlackNotifications())
