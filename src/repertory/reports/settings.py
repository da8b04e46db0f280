"""The settings of a paper, by group: meaning, bounds, and value at each scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from repertory.core.settings import GROUPS, Design

SIGNS = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
    "multipleOf": "a multiple of",
}


def settings_rows(design: type[Design[Any]]) -> list[dict[str, Any]]:
    """One row a field, as JSON has it: name, group, description, allowed values, and the value at each scale."""
    properties = design.Config.model_json_schema()["properties"]
    values = {scale: config.model_dump(mode="json") for scale, config in design.scales.items()}
    rows = [
        {
            "name": name,
            "group": design.Config.group_of(name),
            "description": field.description,
            "allowed": allowed(properties[name]),
            "values": {scale: held[name] for scale, held in values.items()},
        }
        for name, field in design.Config.model_fields.items()
    ]
    return sorted(rows, key=lambda row: GROUPS.index(row["group"]))


def settings_table(design: type[Design[Any]], scale: str) -> Lines:
    """A table for each group: the value at `scale`, and at other scales where it differs."""
    parts: list[Text | Table] = []
    rows = settings_rows(design)
    for group in GROUPS:
        table = Table("setting", f"{scale} (others)", "allowed", "meaning", box=None, padding=(0, 2, 0, 0))
        table.columns[0].no_wrap = True
        for row in rows:
            if row["group"] == group:
                here = row["values"][scale]
                others = ", ".join(f"{name} {_shown(v)}" for name, v in row["values"].items() if v != here)
                value = f"{_shown(here)} ({others})" if others else _shown(here)
                cells = (row["name"], value, row["allowed"], row["description"])
                table.add_row(*map(Text, cells))
        if table.rows:
            parts += [Text(group, style="bold"), table, Text()]
    return Lines(*parts)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, list):
        return ",".join(map(_shown, value)) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def allowed(schema: Mapping[str, Any]) -> str:
    """The values that a field of a JSON schema accepts, in a few words.

    Example:
        >>> allowed({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
        'number > 0, <= 1'
        >>> allowed({"anyOf": [{"type": "integer", "minimum": 8}, {"type": "null"}]})
        'integer >= 8, or empty'
    """
    if "anyOf" in schema:
        options = [allowed(option) for option in schema["anyOf"] if option.get("type") != "null"]
        return " or ".join(options) + (", or empty" if len(options) < len(schema["anyOf"]) else "")
    if "enum" in schema:
        return " | ".join(str(value) or '""' for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    bounds = [f"{sign} {schema[name]:g}" for name, sign in SIGNS.items() if name in schema]
    kind = {"boolean": "true | false", "string": "text", "array": "list"}.get(
        schema.get("type", ""), schema.get("type")
    )
    return f"{kind or 'value'} {', '.join(bounds)}".strip()
