"""Checks of single settings. Their errors name the setting, its value and what it must be."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints


def require(ok: bool, field_name: str, value: Any, wanted: str) -> None:
    if not ok:
        raise ValueError(f"{field_name} = {value!r}: {wanted}")


def require_types(config: Any, prefix: str) -> None:
    """Every field is of its kind; a file in configs/ may set anything."""
    kinds = get_type_hints(type(config))
    for name in (f.name for f in fields(config)):
        value = getattr(config, name)
        wanted = _wanted(value, kinds[name])
        require(not wanted, f"{prefix}{'.' if prefix else ''}{name}", value, f"must be {wanted}")


def require_at_most(config: Any, prefix: str, **most: int) -> None:
    """Upper bounds of fields: beyond, a run would be begun that no machine can finish."""
    for name, bound in most.items():
        value = getattr(config, name)
        require(value <= bound, f"{prefix}.{name}", value, f"must be <= {bound:,}")


def _wanted(value: Any, kind: Any) -> str:
    """What a value must be to be of its kind; "" if it is."""
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"one of {get_args(kind)}"
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return "a tuple, such as (value,)"
        parts = [_wanted(part, get_args(kind)[0]) for part in value]
        return next((f"a tuple, and each of it {part}" for part in parts if part), "")
    if isinstance(value, bool) and kind is not bool:  # Python takes True for 1
        return "a whole number" if kind is int else "a finite number" if kind is float else "a text"
    if kind is float:
        number = isinstance(value, int | float) and math.isfinite(value)
        return "" if number else "a finite number"
    if isinstance(value, kind):
        return ""
    if isinstance(value, PurePath):
        return f"a text, {str(value)!r}"
    return {int: "a whole number", str: "a text", bool: "True or False"}.get(kind, f"a {kind.__name__}(...)")
