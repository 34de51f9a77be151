"""Telling people: one plain message an event, which never breaks the work it tells of.

Not here: deciding what is worth telling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Logger

    from slack_sdk import WebClient

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def escaped(text: str) -> str:
    """Text as Slack shows it literally: no mention, link or command can be smuggled in."""
    return text.translate(_ESCAPES)


@dataclass(frozen=True)
class Notifier:
    """Sends to Slack where a token is set, and to the log everywhere.

    Args:
        connect: Makes the Slack client; None where no token is set.
        log: Where each message, and each failure to send one, is written.
    """

    connect: Callable[[], WebClient] | None
    log: Logger

    def tell(self, channel: str | None, text: str) -> bool:
        """Send one message.

        Returns:
            Whether Slack took it; a failure is logged and nothing is raised.
        """
        self.log.info(text)
        if self.connect is None or channel is None:
            return False
        from slack_sdk.errors import SlackClientError

        try:
            self.connect().chat_postMessage(channel=channel, text=escaped(text))
        except (SlackClientError, OSError) as error:
            self.log.warning("Slack did not take the message for %s: %s", channel, error)
            return False
        return True
