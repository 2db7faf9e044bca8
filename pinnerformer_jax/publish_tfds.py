"""Publish a prepared folder as a TFDS data set.

    python -m pinnerformer_jax.publish_tfds --prepared DIR --data-dir OUT

What it looks like and how to read it: pinnerformer_jax/ingestion/tfds_out.py.
"""

from __future__ import annotations

import tyro

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.ingestion.tfds_out import publish


def main(args: list[str] | None = None) -> None:
    """Run the verb."""
    with errors_as_messages():
        print(f"published: {tyro.cli(publish, args=args)}")


if __name__ == "__main__":
    main()
