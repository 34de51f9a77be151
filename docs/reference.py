"""Write docs/reference.md, docs/answers.json and the checks in docs/operations.md from the code.

Run it as `python docs/reference.py`.
"""

import json
from pathlib import Path
from typing import Any

from retrain_assets.cli.answers import list_schemas
from retrain_assets.orchestration.checks import CHECK_HELP
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec

HEAD = """# Reference: every field of the YAML

`python docs/reference.py` writes this page from the code. A field that is not listed is refused.
The [glossary](design.md#glossary) explains words such as partition, mature and holdout.
"""

START, END = "<!-- checks -->", "<!-- end of checks -->"


def reference() -> str:
    """Return the page of all fields."""
    parts = [HEAD]
    for spec, name in ((DatasetSpec, "LandedDataset"), (ModelSpec, "RetrainedModel")):
        schema = spec.model_json_schema(by_alias=True)
        parts += [f"## retrain_assets.{name}\n", schema["description"] + "\n", table(schema)]
        for title, part in schema["$defs"].items():
            parts += [f"### {title}\n", part["description"] + "\n", table(part)]
    return "\n".join(parts)


def answers() -> str:
    """Return the JSON schemas of what commands print with `--json`, by command."""
    return json.dumps(list_schemas(), indent=1) + "\n"


def operations(page: str) -> str:
    """Return the page about operations, with the present texts of the checks."""
    before, rest = page.split(START)
    rows = [f"| `{name}` | {text} |" for name, text in sorted(CHECK_HELP.items())]
    table = "\n".join(["| check | what to do |", "|---|---|", *rows])
    return f"{before}{START}\n{table}\n{END}{rest.split(END)[1]}"


def table(schema: dict[str, Any]) -> str:
    """Return the table of the fields of one part."""
    required = schema.get("required", [])
    lines = ["| field | type | default | |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        default = "required" if name in required else shown(field.get("default"))
        text = field.get("description", "").replace("|", "\\|")
        lines.append(f"| `{name}` | {kind(field)} | {default} | {text} |")
    return "\n".join(lines) + "\n"


def shown(default: object) -> str:
    """Return a default as text; the defaults of a part are in its own table."""
    if isinstance(default, dict) and default:
        return ""
    words = {None: "", True: "true", False: "false"}
    text = words[default] if isinstance(default, bool | None) else str(default)  # type: ignore[index]
    return f"`{text}`" if text else ""


def kind(field: dict[str, Any]) -> str:
    """Describe the type and its bounds in a few words."""
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(kind(part) for part in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum") or [field["const"]])
    if field.get("type") == "array":
        inner = field.get("items") or {}
        return f"list of {kind(inner)}" if inner else "list"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {kind(inner)}" if isinstance(inner, dict) and inner else "mapping"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[key]:g}" for key, sign in bounds.items() if key in field]
    return " ".join([field.get("type", "any"), *limits])


if __name__ == "__main__":
    here = Path(__file__)
    here.with_name("reference.md").write_text(reference(), encoding="utf-8")
    here.with_name("answers.json").write_text(answers(), encoding="utf-8")
    page = here.with_name("operations.md")
    page.write_text(operations(page.read_text(encoding="utf-8")), encoding="utf-8")
