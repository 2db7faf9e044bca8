"""Configs on disk: the Python files of configs/, and the JSON that a run keeps of what it used."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import runpy
import traceback
from pathlib import Path
from typing import Any, get_type_hints

from pinnerformer_jax import config as config_module
from pinnerformer_jax.config import Config, PositiveRule


def load_config(path: str | Path) -> Config:
    """The `config` that a Python file in configs/ builds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be run, defines no `config`, or a field is out of range or unknown.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such config file; those that come with the project are in configs/"
        )
    config = run_file(path).get("config")
    if not isinstance(config, Config):
        raise ValueError(f"{path}: must define `config = Config(...)`, found {type(config).__name__}")
    return config


def run_file(path: str | Path) -> dict[str, Any]:
    """The names that a Python file defines. The file is run, so it may do whatever its writer may do.

    Raises:
        ValueError: it cannot be run. The message names file, line and, for an unknown setting, the nearest.
    """
    try:
        return runpy.run_path(str(path))
    except SyntaxError as error:
        raise ValueError(f"{error.filename or path} line {error.lineno}: {error.msg}") from None
    except Exception as error:  # whatever a file may raise
        lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(path)]
        where = f"{path} line {lines[-1]}" if lines else str(path)
        if isinstance(error, ValueError):
            raise ValueError(f"{where}: {error}") from None
        raise ValueError(f"{where}: {type(error).__name__}: {error}{_nearest(error)}") from None


def _nearest(error: Exception) -> str:
    """The nearest setting, where a class of settings was given one that it does not have."""
    found = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    section = getattr(config_module, found[1], None) if found else None
    if not found or not dataclasses.is_dataclass(section):
        return ""
    known = [field.name for field in dataclasses.fields(section)]
    near = difflib.get_close_matches(found[2], known, 1, 0.5)
    return f". The nearest is {near[0]!r}" if near else f". There are: {known}"


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`, also for what an older version saved.

    Raises:
        ValueError: a field is unknown, with its name.
    """
    return _build(Config, in_sections_of_today(values), "")


def in_sections_of_today(values: dict[str, Any]) -> dict[str, Any]:
    """A `to_dict` in which the settings of the index and of the embedding have sections of their own. In
    older ones they are `evaluation.scann_*`, and `evaluation.batch_size` is that of the embedding too."""
    evaluation = values.get("evaluation", {})
    moved = {name: value for name, value in evaluation.items() if name.startswith("scann_")}
    if not moved:
        return values
    return {
        **values,
        "evaluation": {name: value for name, value in evaluation.items() if name not in moved},
        "embedding": {name: value for name, value in evaluation.items() if name == "batch_size"},
        "index": {name.removeprefix("scann_"): value for name, value in moved.items()},
    }


def _build(cls: type[Any], values: dict[str, Any], prefix: str) -> Any:
    kinds = get_type_hints(cls)
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name not in kinds:
            raise ValueError(f"{prefix}{name} = {value!r}: no such setting; known here: {sorted(kinds)}")
        if dataclasses.is_dataclass(kinds[name]):  # a section
            built[name] = _build(kinds[name], value, f"{prefix}{name}.")
        elif name == "positives":
            built[name] = tuple(PositiveRule(**rule) for rule in value)
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
    return cls(**built)


def digest(config: Any) -> str:
    """Twelve hex digits that change when any value of this (part of a) config does."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines `section.field: old -> new`, one for each value that differs between two `to_dict`s."""
    lines: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            lines.append(f"{prefix}{name}: {a!r} -> {b!r}")
    return lines
