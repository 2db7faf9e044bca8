"""A config that is being written: each setting with its value, the reason, and whether it is certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pinnerformer_jax.config import ColumnsConfig, Config, CsvConfig, DataConfig, ItemsConfig

CHECK, EDIT = "CHECK", "EDIT"
"""Marks of a choice: it is not certain, and somebody who knows the log must look at it; there is none, and
ingest stops until somebody writes one."""


class Choice(NamedTuple):
    """The value of a setting, and why."""

    value: Any
    reason: str
    mark: str = ""  # "", CHECK or EDIT
    instead: tuple[str, ...] = ()  # other values, as Python writes them, for whoever edits the line


@dataclass
class Draft:
    """Choices by setting, such as `data.columns.user`, and what was seen of the log."""

    name: str
    choices: dict[str, Choice] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def choose(
        self, setting: str, value: Any, reason: str, mark: str = "", instead: Sequence[str] = ()
    ) -> None:
        """Set a choice, in the place of any before."""
        self.choices[setting] = Choice(value, reason, mark, tuple(instead))

    def value(self, setting: str, default: Any = "") -> Any:
        """What was chosen."""
        return self.choices[setting].value if setting in self.choices else default

    def add(self, setting: str, reason: str, mark: str = "") -> None:
        """Add a reason, and a mark if it has none, to a choice."""
        old = self.choices[setting]
        self.choices[setting] = old._replace(reason=f"{old.reason}. {reason}", mark=old.mark or mark)

    def marked(self, mark: str) -> list[str]:
        """Settings whose choice has this mark."""
        return [setting for setting, choice in self.choices.items() if choice.mark == mark]

    def config(self) -> Config:
        """The config. There must be no choice marked EDIT."""
        return Config(
            name=self.name,
            sizes_by_log=True,
            data=DataConfig(
                columns=ColumnsConfig(**self.section("data.columns")),
                csv=CsvConfig(**self.section("data.csv")),
                **self.section("data"),
            ),
            items=ItemsConfig(csv=CsvConfig(**self.section("items.csv")), **self.section("items")),
        )

    def section(self, name: str) -> dict[str, Any]:
        """The values of a section, by field."""
        return {
            setting.rpartition(".")[2]: choice.value
            for setting, choice in self.choices.items()
            if setting.rpartition(".")[0] == name
        }
