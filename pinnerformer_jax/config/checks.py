"""Checks of single settings. Their errors name the setting, its value and what it must be."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints


def require(ok: bool, field_name: str, value: Any, wanted: str) -> None:
    if not ok:
        raise ValueError(f"{field_name} = {value!r}: {wanted}")


def require_types(config: Any, prefix: str) -> None:
    """Every field is of its kind; a file in configs/ may set anything."""
    kinds = get_type_hints(type(config))
    for name in (f.name for f in fields(config)):
        kind, value, setting = kinds[name], getattr(config, name), f"{prefix}.{name}"
        if get_origin(kind) is Literal:
            require(value in get_args(kind), setting, value, f"must be one of {get_args(kind)}")
        elif get_origin(kind) is tuple:
            require(isinstance(value, tuple), setting, value, "must be a tuple")
        elif kind is int:
            require(isinstance(value, int), setting, value, "must be a whole number")
        elif kind is float:
            finite = isinstance(value, int | float) and math.isfinite(value)
            require(finite, setting, value, "must be a finite number")
