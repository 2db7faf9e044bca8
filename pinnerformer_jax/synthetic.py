"""Write a synthetic world, an event log and an item table.

    python -m pinnerformer_jax.synthetic --out data/demo/raw [--users ... --seed ...]

What is in it and how it comes about: pinnerformer_jax/ingestion/synthetic.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.ingestion.synthetic import write
from pinnerformer_jax.ingestion.synthetic_world import SyntheticConfig


@dataclass(frozen=True)
class Arguments:
    """Write a synthetic world: OUT/events.parquet and OUT/items.parquet."""

    out: Path
    """Folder to write to."""
    world: Annotated[SyntheticConfig, tyro.conf.arg(name="")] = field(default_factory=SyntheticConfig)


def main(args: list[str] | None = None) -> None:
    """Run the verb."""
    with errors_as_messages():
        arguments = tyro.cli(Arguments, args=args)
        rows = write(arguments.world, arguments.out)
    print(f"{rows:,} events of {arguments.world.users:,} users in {arguments.out}/events.parquet")


if __name__ == "__main__":
    main()
