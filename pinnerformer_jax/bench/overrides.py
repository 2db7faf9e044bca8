"""`--section.setting value` without tyro, for settings that are one number, word or truth value."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from pinnerformer_jax.config import Config


def override(config: Config, arguments: Sequence[str]) -> Config:
    """A config with some settings replaced.

    Args:
        config: to start from.
        arguments: `--section.setting`, `value`, or both in one as `--section.setting=value`.

    Raises:
        ValueError: a setting does not exist, or its value is missing or of another type.
    """
    words = iter(arguments)
    for word in words:
        name, given, value = word.partition("=")
        if not given:
            value = next(words, "")
        section, _, setting = name.removeprefix("--").replace("-", "_").partition(".")
        part: Any = getattr(config, section, None)
        types = typing.get_type_hints(type(part)) if dataclasses.is_dataclass(part) else {}
        if not name.startswith("--") or setting not in types:
            raise ValueError(
                f"{name}: no such flag or setting; settings are those of pinnerformer_jax/config/"
            )
        changed = dataclasses.replace(part, **{setting: _read(name, value, types[setting])})
        config = dataclasses.replace(config, **{section: changed})
    return config


def _read(name: str, value: str, kind: Any) -> Any:
    literal = typing.get_origin(kind) is typing.Literal
    choices = typing.get_args(kind) if literal else (True, False) if kind is bool else ()
    if choices:
        named = {str(choice).lower(): choice for choice in choices}
        if value.lower() not in named:
            raise ValueError(f"{name} {value!r}: must be one of {', '.join(named)}")
        return named[value.lower()]
    if kind not in (int, float, str):
        raise ValueError(
            f"{name}: set it in the config file; here only numbers, words and true or false are read"
        )
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name} {value!r}: must be of type {kind.__name__}") from None
