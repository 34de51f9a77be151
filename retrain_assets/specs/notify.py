"""The YAML of `notify`: who is told of which events, over which channel, and how often.

Not here: credentials, which come from the environment, the texts of messages, and sending them.
"""

from ipaddress import ip_address
from typing import Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from retrain_assets.specs.base import Address, Duration, Mistakes, Spec

_Decision = Literal[
    "promoted",
    "held",
    "refused",
    "rolled_back",
    "worse_than_before",
    "waiting_for_approval",
    "adaptation",
]
EventKind = Literal["retraining", _Decision, "data_refused", "late_data", "run_failed", "serving"]
Channel = Literal["slack", "email", "webhook"]


class NotifySpec(Spec):
    """The people and systems that are told of events.

    Args:
        slack: A Slack channel, such as `#models`.
        email: E-mail addresses.
        webhook: URL to which events are posted; its host must be in `RETRAIN_WEBHOOK_HOSTS`.
        events: The events a channel is told of; all by default.
        digest: Time within which data events and failed runs become one message.
        quiet: Time within which repetitions are only counted.
    """

    slack: str | None = Field(None, pattern="^[#@]?[\\w.-]+$")
    email: list[Address] = Field([], max_length=50)
    webhook: str | None = Field(None, max_length=2000)
    events: dict[Channel, list[EventKind]] = Field({})
    digest: Duration = "10m"
    quiet: Duration = "24h"

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Return the channels that have a receiver."""
        return tuple(channel for channel in get_args(Channel) if getattr(self, channel))

    def tells(self, channel: Channel, kind: EventKind) -> bool:
        """Tell if a channel gets events of this kind."""
        return kind in self.events.get(channel, [kind])

    @field_validator("webhook")
    @classmethod
    def _check_webhook(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        excess = url.port == 0 or url.username or url.fragment or not value.isprintable()
        if excess or not url.hostname:
            raise ValueError("give a URL of host and path, such as https://deploy.example.org/hook")
        if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname)):
            raise ValueError(f"{url.scheme!r} is not encrypted: use https")
        return value

    def _find_mistakes(self) -> Mistakes:
        for channel in self.events:
            if channel not in self.channels:
                yield f"events.{channel}: there is no `{channel}` to be told"


def is_loopback(host: str) -> bool:
    """Tell if a host name means this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
