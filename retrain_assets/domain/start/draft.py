"""The draft of a YAML file: its values, a comment for each guess, and how sure each guess is.

Not here: guessing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import yaml

Certainty = Literal["sure", "likely", "unsure"]
# The width is in characters, so that a mapping in braces stays on one line.
_FLOW: dict[str, Any] = {"default_flow_style": True, "width": 10**6, "allow_unicode": True}


@dataclass(frozen=True)
class Guess:
    """One thing that nobody has stated.

    Args:
        about: A field of the YAML, or a column.
        value: The guess.
        reason: What it follows from.
        certainty: `unsure` guesses are to be looked at by a person.
    """

    about: str
    value: str
    reason: str
    certainty: Certainty = "likely"

    def record(self) -> dict[str, str]:
        """Return the guess as plain values."""
        return {name: printable(text) for name, text in asdict(self).items()}


@dataclass
class Draft:
    """The attributes of one component, and the reasons that stand beside them.

    Args:
        kind: `LandedDataset` or `RetrainedModel`.
        attributes: The values by field.
        comments: The comment at the end of a line, by the path of its field.
    """

    kind: str
    attributes: dict[str, Any]
    comments: dict[tuple[str, ...], str] = field(default_factory=dict)

    def render(self) -> str:
        """Return the YAML, one line for each field and each column."""
        lines = [f"type: retrain_assets.{self.kind}", "attributes:"]
        lines += self._lines(self.attributes, (), "  ")
        return "\n".join(lines) + "\n"

    def _lines(self, values: Mapping[str, Any], path: tuple[str, ...], indent: str) -> list[str]:
        lines = []
        for name, value in values.items():
            here, key = (*path, name), write_flow(name)
            comment = printable(self.comments.get(here, ""))
            end = f"    # {comment}" if comment else ""
            if here == ("features", "sql"):
                lines += [f"{indent}{key}: |", *(f"{indent}  {line}" for line in value.split("\n"))]
            elif here in (("columns",), ("features",), ("triggers",)):
                lines += [f"{indent}{key}:{end}", *self._lines(value, here, f"{indent}  ")]
            else:
                lines.append(f"{indent}{key}: {write_flow(value)}{end}")
        return lines


class _Dumper(yaml.SafeDumper):
    """Puts texts in double quotes, since they stay text then whatever they look like."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Write out what stands twice."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    words = text.replace("_", "").replace(".", "")
    is_plain = words.isascii() and words.isalnum() and text[0].isalpha()
    special = text.lower() in {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
    style = None if is_plain and not special else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def write_flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, **_FLOW)
    return text.removesuffix("...\n").strip()


def printable(text: str) -> str:
    """Return foreign text on one line and without control characters."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def describe(guesses: Sequence[Guess]) -> Iterator[str]:
    """Yield the guesses as lines, first those that a person should look at."""
    order = ("unsure", "likely", "sure")
    for guess in sorted(guesses, key=lambda guess: order.index(guess.certainty)):
        row = guess.record()
        yield f"  {row['certainty']:<7} {row['about']}: {row['value']} ({row['reason']})"


def join(names: Iterable[str], most: int = 6) -> str:
    """Return names with commas between them, and how many more there are."""
    names = list(names)
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
