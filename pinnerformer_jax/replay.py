"""Replay days of a log through the daily job: incremental against full, time and recall.

    python -m pinnerformer_jax.replay --workdir RUN --out DIR --first DAY [--days 10 --horizon 3]

The state of DAY comes from the run's prepared timelines. Each day after it is run twice: incrementally, and
with all users embedded. The command prints a line for each day and writes DIR/replay.json and DIR/replay.png.
Choose days after data.split_time: the model was trained on the days before it, so their recall is too high.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.files import write_json
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.studies.replay import Span, draw, replay


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pinnerformer_jax.replay",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir", type=Path, required=True, metavar="RUN", help="folder of the trained run"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, for all of it")
    parser.add_argument("--first", required=True, metavar="DAY", help="the day before the replay: 2026-11-24")
    parser.add_argument("--days", type=int, default=10, help="days to replay (%(default)s)")
    parser.add_argument(
        "--horizon", type=int, default=3, help="days whose positives are targets (%(default)s)"
    )
    parser.add_argument("--events", nargs="+", default=(), metavar="LOG", help="default: the run's log")
    parser.add_argument(
        "--data.prepared", dest="prepared", type=Path, metavar="DIR",
        help="where the run's prepared folder is now (default: where the training found it)",
    )  # fmt: skip
    values = parser.parse_args(argv)
    set_up_process()
    with errors_as_messages():
        if min(values.days, values.horizon) < 1:
            raise ValueError(f"--days {values.days} --horizon {values.horizon}: at least 1 each")
        span = Span(values.first, values.days, values.horizon)
        lines = replay(values.workdir, values.out, span, tuple(values.events), values.prepared)
        write_json(values.out / "replay.json", [dataclasses.asdict(line) for line in lines])
        draw(lines, "the daily job", values.out / "replay.png")
    print(f"wrote {values.out / 'replay.json'} and replay.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
