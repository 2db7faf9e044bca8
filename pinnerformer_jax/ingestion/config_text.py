"""A draft as the Python file of a config, each setting under the reason for it."""

from __future__ import annotations

import textwrap
from typing import Any

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.ingestion.draft import CHECK, EDIT, Choice, Draft

_WIDTH = 110

_HEAD = '''"""{name}: written by `pinnerformer init`, which looked at the files.

{seen}

Lines under EDIT have no value: ingest stops until you write one. Lines under CHECK have a value that is not
certain. The sizes of the model and of the training follow from the log. docs/your-log.md explains the
settings; pinnerformer_jax/config/ has all of them. When this is right:

    python -m pinnerformer_jax.run --config {path} --workdir runs/{name}
"""

from pinnerformer_jax.config import {classes}

config = Config(
    name={literal},
    sizes_by_log=True,
    data=DataConfig(
'''

_DATA = (
    "events", "prepared", "columns", "csv", "where", "time_unit", "time_zone", "positives",
    "sequence_actions", "evaluation_days", "max_reject_share",
)  # fmt: skip
_COLUMNS = ("user", "item", "time", "action", "surface", "duration", "title", "topic")
_ITEMS = ("table", "csv", "id", "vector", "title", "topic", "text")
_CLASS = {"columns": "ColumnsConfig", "csv": "CsvConfig"}


def config_text(draft: Draft, path: str) -> tuple[str, dict[str, int]]:
    """The text of the file, and the line of each setting in it, from 1.

    Args:
        draft: the choices.
        path: of the file, for the commands that it shows.
    """
    body, lines = [], {}

    def add(section: str, fields: tuple[str, ...], indent: str) -> None:
        for field in fields:
            setting = f"{section}.{field}"
            if field in _CLASS:
                if draft.section(setting):
                    body.append(f"{indent}{field}={_CLASS[field]}(")
                    inner = _COLUMNS if field == "columns" else ("encoding", "delimiter")
                    add(setting, inner, f"{indent}    ")
                    body.append(f"{indent}),")
            elif setting in draft.choices:
                choice = draft.choices[setting]
                body.extend(_comment(choice, indent))
                lines[setting] = len(body) + 1
                body.extend(_assignment(field, choice.value, indent))

    add("data", _DATA, " " * 8)
    body.append("    ),")
    if draft.section("items"):
        body.append("    items=ItemsConfig(")
        add("items", _ITEMS, " " * 8)
        body.append("    ),")
    body.append(")")
    text = "\n".join(body)
    classes = ["ColumnsConfig", "Config", "CsvConfig", "DataConfig", "ItemsConfig", "PositiveRule"]
    used = [name for name in classes if name in ("Config", "DataConfig") or f"{name}(" in text]
    seen = "\n".join(
        textwrap.fill(_plain(line) + ".", _WIDTH, break_long_words=False, break_on_hyphens=False)
        for line in draft.seen
    )
    head = _HEAD.format(
        name=_plain(draft.name),
        seen=seen,
        path=_plain(path),
        classes=", ".join(used),
        literal=_literal(draft.name),
    )
    before = head.count("\n")
    return head + text + "\n", {setting: line + before for setting, line in lines.items()}


def _plain(text: str) -> str:
    """A text that ends no docstring and no comment."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown.replace("\\", "/").replace('"""', "'''")


def _comment(choice: Choice, indent: str) -> list[str]:
    marked = f"{choice.mark}: " if choice.mark in (CHECK, EDIT) else ""
    start = f"{indent}# "
    shown = "".join(c if c.isprintable() else " " for c in choice.reason)
    lines = textwrap.wrap(
        f"{marked}{shown}.", _WIDTH, initial_indent=start,
        subsequent_indent=start, break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    for other in choice.instead:
        lines.append(f"{start}    or {''.join(c if c.isprintable() else ' ' for c in other)}")
    return lines


def _assignment(field: str, value: Any, indent: str) -> list[str]:
    line = f"{indent}{field}={_literal(value)},"
    if len(line) <= _WIDTH or not isinstance(value, str | tuple):
        return [line]
    if isinstance(value, str):
        parts = textwrap.wrap(value, _WIDTH - len(indent) - 12, drop_whitespace=False, break_long_words=False)
        if "".join(parts) != value:  # a tab or a line break within
            return [line]
        return [f"{indent}{field}=(", *(f"{indent}    {_literal(part)}" for part in parts), f"{indent}),"]
    inner = [f"{indent}    {_literal(part)}," for part in value]
    return [f"{indent}{field}=(", *inner, f"{indent}),"]


def _literal(value: Any) -> str:
    """A value as Python, texts in double quotes where they have none within."""
    if isinstance(value, str):
        shown = repr(value)
        return (
            f'"{shown[1:-1]}"' if shown.startswith("'") and '"' not in value and "\\'" not in shown else shown
        )
    if isinstance(value, PositiveRule):
        given = [f"action={_literal(value.action)}"] if value.action else []
        return f"PositiveRule({', '.join(given)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    return repr(value)
