"""A message reaches Slack, mail and webhooks as it is meant; what goes wrong is told, not raised.

All of it over real sockets, to servers on loopback.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.domain.messages import Event, Message, NotTakenError
from retrain_assets.orchestration.resources import Channels
from retrain_assets.specs.notify import NotifySpec
from retrain_assets.stores import messages
from retrain_assets_tests.receivers import (
    Web,
    certificate,
    mail_server,
    silent_server,
    web,
)

KEY = base64.b64encode(b"canary-canary-canary-1234").decode()
EVENT = Event(
    "ledger:3", "promoted", "churn", "churn: version 3 is in production", "3", '{"version": 3}'
)
EVIL = "churn: refused <!channel> & <https://evil>\u202e\r\nBcc: all@example.org"
Environment = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    for name in ("SLACK_BOT_TOKEN", "RETRAIN_WEBHOOK_SECRET", "RETRAIN_WEBHOOK_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOST", "PORT", "SENDER", "TLS", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"SMTP_{name}", raising=False)

    def put(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return put


@pytest.fixture
def slack(environment: Environment) -> Iterator[Web]:
    environment(SLACK_BOT_TOKEN="xoxb-canary")
    with web() as server:
        yield server


def message(*texts: str, channel: Any = "slack") -> Message:
    return Message("ab12", channel, [EVENT, *(Event(t, "held", "churn", t, t) for t in texts)])


def usable(resource: Channels | None = None, **notify: Any) -> Any:
    """What sends over the one channel that is named, or why it cannot."""
    found, missing = (resource or Channels()).senders(NotifySpec.model_validate(notify))
    return next(iter(found.values()), None) or missing[0]


def to_slack(server: Web, made: Message) -> str:
    return str(usable(Channels(slack_url=server.url()), slack="#ml")(made))


def test_a_message_arrives_in_its_channel_with_the_token(slack: Web) -> None:
    assert to_slack(slack, message("churn: version 4 is held back")) == ""
    (posted,) = slack.posted
    assert posted.path == "/hook/chat.postMessage"
    assert posted.headers["authorization"] == "Bearer xoxb-canary"
    assert posted.form["channel"] == "#ml"
    assert posted.form["text"] == f"{EVENT.text}\nchurn: version 4 is held back"
    assert posted.form["mrkdwn"] in ("0", "False", False)


def test_text_from_data_cannot_become_a_mention_or_a_link(slack: Web) -> None:
    to_slack(slack, message(EVIL))
    assert "refused &lt;!channel&gt; &amp; &lt;https://evil&gt;" in slack.posted[0].form["text"]


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (429, {"Retry-After": "99999999"}, 86400.0),
        (429, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}, None),
        (500, {}, None),
    ],
)
def test_slack_says_when_to_come_again(
    slack: Web, status: int, headers: dict[str, str], wait: float | None
) -> None:
    slack.status, slack.headers, slack.body = status, headers, b'{"ok": false, "error": "busy"}'
    with pytest.raises(NotTakenError, match=f"^HTTP {status}: busy$") as caught:
        to_slack(slack, message())
    assert caught.value.wait == wait


@pytest.mark.parametrize(
    "body", [b'{"ok": false, "error": "no xoxb-canary"}', b"<p>xoxb-canary</p>"]
)
def test_a_credential_that_slack_repeats_is_neither_told_nor_logged(
    slack: Web, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    slack.body = body
    with caplog.at_level("DEBUG"), pytest.raises(NotTakenError, match="SLACK_BOT_TOKEN") as caught:
        to_slack(slack, message())
    assert "canary" not in f"{caught.value!r}{caught.value.__cause__}{caplog.text}"


def test_a_slack_that_is_not_there_hangs_or_has_no_name_is_told(
    slack: Web, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Channels(slack_url="http://127.0.0.1:9/api")
    with pytest.raises(NotTakenError, match="refused"):
        usable(gone, slack="#ml")(message())
    slack.hangs = True
    monkeypatch.setattr("retrain_assets.orchestration.resources.TIMEOUT_SECONDS", 0.2)
    with pytest.raises(NotTakenError, match="timed out"):
        to_slack(slack, message())
    monkeypatch.setattr(socket, "getaddrinfo", _no_name)
    with pytest.raises(NotTakenError, match="Name or service not known"):
        usable(Channels(slack_url="http://slack.invalid/api"), slack="#ml")(message())


def _no_name(*_: object, **__: object) -> list[Any]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_credentials_are_no_part_of_any_configuration() -> None:
    assert set(Channels.model_fields) == {"slack_url"}


# Mail.


@pytest.fixture
def trusted(tmp_path: Path, environment: Environment) -> Any:
    """The server's side of a certificate that clients trust."""
    file, context = certificate(tmp_path, "localhost", "127.0.0.1")
    environment(SSL_CERT_FILE=file)
    return context


def by_mail(environment: Environment, port: int, host: str = "127.0.0.1", **more: object) -> Any:
    environment(SMTP_HOST=host, SMTP_PORT=port, SMTP_SENDER="retrain@example.org", **more)
    return usable(email=["ml@example.org", "ops@example.org"])


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_mail_arrives_encrypted_with_a_message_id_that_stays(
    trusted: Any, environment: Environment, tls: str
) -> None:
    with mail_server(trusted, implicit=tls == "implicit", password="sesame") as server:
        login = {"SMTP_USERNAME": "retrain", "SMTP_PASSWORD": "sesame", "SMTP_TLS": tls}
        send = by_mail(environment, server.port, **login)
        assert (send(message()), send(message())) == ("", "")
    (first, again) = server.delivered
    assert first.encrypted or tls == "implicit"  # that port has nothing else
    assert (first.user, first.to) == ("retrain", ["ml@example.org", "ops@example.org"])
    assert first.mail["message-id"] == again.mail["message-id"] == "<ab12@example.org>"
    assert first.mail["subject"] == EVENT.text
    assert first.mail["from"] == "retrain@example.org"
    assert first.mail["auto-submitted"] == "auto-generated"
    assert first.mail.get_content_type() == "text/plain"
    assert first.mail.get_content().strip() == EVENT.text


def test_text_from_data_cannot_become_a_header_of_a_mail(
    environment: Environment, trusted: Any
) -> None:
    with mail_server(trusted) as server:
        made = Message("ab12", "email", [Event("1", "held", "churn", "x\n.\n" + "y" * 5000, "1")])
        with pytest.raises(NotTakenError, match="ValueError"):
            by_mail(environment, server.port)(made)
        assert by_mail(environment, server.port)(message("z" * 3000)) == ""
    (delivered,) = server.delivered
    assert delivered.mail["bcc"] is None
    assert delivered.mail.get_content().count("z") == 3000


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_certificate_that_is_not_trusted_gets_no_mail_and_no_password(
    tmp_path: Path, environment: Environment, tls: str
) -> None:
    _, context = certificate(tmp_path, "127.0.0.1")
    login = {"SMTP_USERNAME": "retrain", "SMTP_PASSWORD": "sesame", "SMTP_TLS": tls}
    with mail_server(context, implicit=tls == "implicit", password="sesame") as server:
        with pytest.raises(NotTakenError, match="CERTIFICATE_VERIFY_FAILED"):
            by_mail(environment, server.port, **login)(message())
        assert server.delivered == []


def test_a_certificate_of_another_name_gets_no_mail(
    tmp_path: Path, environment: Environment
) -> None:
    file, context = certificate(tmp_path, "elsewhere.example.org")
    environment(SSL_CERT_FILE=file)
    with mail_server(context) as server, pytest.raises(NotTakenError, match="not valid for"):
        by_mail(environment, server.port)(message())


def test_a_server_without_tls_gets_mail_only_where_that_was_chosen(
    environment: Environment,
) -> None:
    with mail_server() as server:
        with pytest.raises(NotTakenError, match="STARTTLS extension not supported"):
            by_mail(environment, server.port)(message())
        assert by_mail(environment, server.port, SMTP_TLS="off")(message()) == ""
    assert len(server.delivered) == 1
    said = by_mail(environment, server.port, "mail.example.org", SMTP_TLS="off")
    assert said == "email: SMTP_TLS cannot be 'off' for mail.example.org: use starttls or implicit"


def test_what_a_mail_server_refuses_is_told(
    trusted: Any, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server(trusted) as server:
        send = by_mail(environment, server.port)
        server.unknown = {"ops@example.org"}
        assert send(message()) == "the server refused ops@example.org"
        server.unknown |= {"ml@example.org"}
        with pytest.raises(NotTakenError, match="no such user"):
            send(message())
        server.unknown, server.answer = set(), "451 try later"
        with pytest.raises(NotTakenError, match="451, b'try later'"):
            send(message())
    with pytest.raises(NotTakenError, match="refused"):
        send(message())
    monkeypatch.setattr(messages, "TIMEOUT_SECONDS", 0.2)
    with silent_server() as port, pytest.raises(NotTakenError, match="timed out"):
        by_mail(environment, port)(message())


def test_a_password_that_a_mail_server_repeats_is_not_told(
    trusted: Any, environment: Environment
) -> None:
    with mail_server(trusted, password="sesame") as server:
        login = {"SMTP_USERNAME": "retrain", "SMTP_PASSWORD": "canary"}
        with pytest.raises(NotTakenError) as caught:
            by_mail(environment, server.port, **login)(message())
    assert str(caught.value) == "the login was refused with code 535"
    assert caught.value.__cause__ is None
    assert server.delivered == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "email: SMTP_HOST is not set"),
        ({"SMTP_HOST": "mail.example.org"}, "email: SMTP_SENDER is not set"),
        (
            {"SMTP_HOST": "x", "SMTP_SENDER": "a@b.c\nBcc: d@e.f"},
            r"email: SMTP_SENDER cannot be 'a@b.c\nBcc: d@e.f': give an address",
        ),
        (
            {"SMTP_HOST": "x", "SMTP_SENDER": "a@b.c", "SMTP_TLS": "no"},
            "email: SMTP_TLS cannot be 'no' for x: use starttls or implicit",
        ),
    ],
)
def test_what_mail_still_needs_is_told(
    environment: Environment, settings: dict[str, str], said: str
) -> None:
    environment(**settings)
    assert usable(email=["ml@example.org"]) == said


# Webhooks.


def hook(environment: Environment, url: str, hosts: str = "127.0.0.1, localhost") -> Any:
    environment(RETRAIN_WEBHOOK_SECRET=f"whsec_{KEY}", RETRAIN_WEBHOOK_HOSTS=hosts)
    return usable(webhook=url)


def is_signed(headers: dict[str, str], body: bytes, key: str = KEY) -> bool:
    """As the specification has a receiver check it."""
    signed = b".".join(
        [headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body]
    )
    digest = hmac.new(base64.b64decode(key), signed, hashlib.sha256).digest()
    wanted = f"v1,{base64.b64encode(digest).decode()}"
    return wanted in headers["webhook-signature"].split(" ")


def test_a_webhook_is_signed_and_named_for_its_receiver(environment: Environment) -> None:
    with web() as server:
        hook(environment, server.url() + "?a=b")(message(channel="webhook"))
        (posted,) = server.posted
    assert posted.path == "/hook?a=b"
    assert is_signed(posted.headers, posted.body)
    assert not is_signed(posted.headers, posted.body + b" ")
    assert posted.headers["webhook-id"] == "ab12"
    assert posted.form == {
        "type": "promoted",
        "timestamp": None,
        "data": {
            "subject": "churn",
            "id": "ledger:3",
            "text": EVENT.text,
            "count": 1,
            "version": 3,
        },
    }


def test_a_key_is_exchanged_by_signing_with_both(environment: Environment) -> None:
    other = base64.b64encode(b"z" * 24).decode()
    with web() as server:
        environment(
            RETRAIN_WEBHOOK_SECRET=f"{KEY} whsec_{other}", RETRAIN_WEBHOOK_HOSTS="127.0.0.1"
        )
        usable(webhook=server.url())(message())
        (posted,) = server.posted
    assert is_signed(posted.headers, posted.body, KEY)
    assert is_signed(posted.headers, posted.body, other)


def test_a_webhook_over_https_is_sent_to_who_can_prove_its_name(
    trusted: Any, environment: Environment, tmp_path: Path
) -> None:
    with web(trusted) as server:
        hook(environment, server.url("localhost", "https"))(message())
        assert len(server.posted) == 1
        file, _ = certificate(tmp_path, "localhost")
        environment(SSL_CERT_FILE=file)
        with pytest.raises(NotTakenError, match="CERTIFICATE_VERIFY_FAILED"):
            hook(environment, server.url("localhost", "https"))(message())
        assert len(server.posted) == 1


def test_a_redirect_is_not_followed(environment: Environment) -> None:
    with web() as server, web() as elsewhere:
        server.status, server.headers = 307, {"Location": elsewhere.url()}
        with pytest.raises(NotTakenError, match=r"^HTTP 307$"):
            hook(environment, server.url())(message())
        assert elsewhere.posted == []


def test_a_host_that_is_not_listed_is_not_posted_to(environment: Environment) -> None:
    with web() as server:
        said = hook(environment, server.url(), "localhost,deploy.example.org")
        assert said == "webhook: 127.0.0.1 is not among RETRAIN_WEBHOOK_HOSTS"
        assert server.posted == []


@pytest.mark.parametrize(
    "found",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "0.0.0.0"],  # noqa: S104
)
def test_a_name_that_leads_to_this_machine_or_a_clouds_metadata_is_refused(found: str) -> None:
    with pytest.raises(NotTakenError, match=rf"deploy\.example\.org leads to {found}, an address"):
        messages._check("deploy.example.org", found)
    messages._check("deploy.example.org", "10.1.2.3")


def test_a_listed_name_that_was_bent_to_this_machine_gets_nothing(
    trusted: Any, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, context = certificate(tmp_path, "deploy.example.org")
    environment(SSL_CERT_FILE=file)
    with web(context) as server:
        address = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.server_port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: address)
        url = server.url("deploy.example.org", "https")
        with pytest.raises(NotTakenError, match=r"leads to 127\.0\.0\.1"):
            hook(environment, url, "deploy.example.org")(message())
        assert server.posted == []


@pytest.mark.parametrize(
    ("status", "headers", "wait"), [(503, {"Retry-After": "60"}, 60.0), (410, {}, None)]
)
def test_a_receiver_that_fails_says_when_to_come_again(
    environment: Environment, status: int, headers: dict[str, str], wait: float | None
) -> None:
    with web() as server:
        server.status, server.headers = status, headers
        with pytest.raises(NotTakenError, match=f"^HTTP {status}$") as caught:
            hook(environment, server.url())(message())
        assert caught.value.wait == wait


def test_a_receiver_that_hangs_or_speaks_no_http_is_told(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, trusted: Any
) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_SECONDS", 0.2)
    with web() as server:
        server.hangs = True
        with pytest.raises(NotTakenError, match="timed out"):
            hook(environment, server.url())(message())
    with mail_server() as server_of_mail, pytest.raises(NotTakenError, match="BadStatusLine"):
        hook(environment, f"http://127.0.0.1:{server_of_mail.port}/")(message())


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "not base64!"])
def test_a_key_that_is_none_is_refused_and_not_repeated(
    environment: Environment, secret: str
) -> None:
    environment(RETRAIN_WEBHOOK_SECRET=secret, RETRAIN_WEBHOOK_HOSTS="127.0.0.1")
    said = usable(webhook="http://127.0.0.1:1/")
    assert said.startswith("webhook: RETRAIN_WEBHOOK_SECRET is ")
    assert secret == "" or secret not in said.replace("write whsec_", "")


def test_json_of_a_webhook_survives_any_text(environment: Environment) -> None:
    with web() as server:
        made = Message("ab12", "webhook", [Event("1", "held", "churn", EVIL, "1")])
        hook(environment, server.url())(made)
        assert json.loads(server.posted[0].body)["data"]["text"] == EVIL
