"""The YAML of `notify`: who is told of what, over which channel, and how often.

Credentials come from the environment. Not here: what is said, and how it is sent.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from retrain_assets.specs.base import Address, Duration, Spec

EventKind = Literal[
    "retraining",
    "promoted",
    "held",
    "refused",
    "rolled_back",
    "worse_than_before",
    "waiting_for_approval",
    "data_refused",
    "late_data",
    "run_failed",
    "serving",
]
Channel = Literal["slack", "email", "webhook"]


class NotifySpec(Spec):
    """Who receives which messages."""

    slack: str | None = Field(None, pattern=r"^[#@]?[\w.-]+$", description="A Slack channel.")
    email: list[Address] = Field([], max_length=50, description="E-mail addresses.")
    webhook: str | None = Field(
        None,
        max_length=2000,
        description="URL that each event is sent to, signed. Its host must be in "
        "`RETRAIN_WEBHOOK_HOSTS`, and it must use https, except on this machine.",
    )
    events: dict[Channel, list[EventKind]] = Field(
        {}, description="Events by channel; a channel that is not listed receives all."
    )
    digest: Duration = Field(
        "10m",
        description="Refused data, late data and failed runs within this time become one message. "
        "Decisions are sent at once, and webhooks receive each event by itself.",
    )
    quiet: Duration = Field(
        "24h", description="A repeated event is counted, and sent only after this time."
    )

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels that are named."""
        return tuple(channel for channel in get_args(Channel) if getattr(self, channel))

    def tells(self, channel: Channel, kind: EventKind) -> bool:
        """Whether a channel is told of such events."""
        return kind in self.events.get(channel, [kind])

    @field_validator("webhook")
    @classmethod
    def _is_safe(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if (
            not url.hostname
            or url.port == 0
            or url.username
            or url.fragment
            or not value.isprintable()
        ):
            raise ValueError("give a URL of host and path, such as https://deploy.example.org/hook")
        if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname)):
            raise ValueError(f"{url.scheme!r} is not encrypted: use https")
        return value

    @model_validator(mode="after")
    def _channels_are_named(self) -> NotifySpec:
        for channel in self.events:
            if channel not in self.channels:
                raise ValueError(f"events.{channel}: there is no `{channel}` to be told")
        return self


def is_loopback(host: str) -> bool:
    """Whether a host, as it is written, is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
