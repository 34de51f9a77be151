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
    """Who is told, and of what."""

    slack: str | None = Field(None, pattern=r"^[#@]?[\w.-]+$", description="Channel.")
    email: list[Address] = Field([], max_length=50, description="Addresses.")
    webhook: str | None = Field(
        None,
        max_length=2000,
        description="URL that each event is posted to, signed. Its host must be among "
        "`RETRAIN_WEBHOOK_HOSTS`; https, but for this machine.",
    )
    events: dict[Channel, list[EventKind]] = Field(
        {}, description="Which events a channel is told of; of all, where it is not named."
    )
    digest: Duration = Field(
        "10m",
        description="Refused data, late data and failed runs of this time become one message; a "
        "decision waits for nothing. Webhooks take events one by one.",
    )
    quiet: Duration = Field(
        "24h", description="What happens again within this time is counted, and told after it."
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
