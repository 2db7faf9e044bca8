"""Look at the served state in a browser: users, what is recommended and why, what a change does.

    python -m pinnerformer_jax.explore --snapshots DIR --workdir RUN

The page of a user has the history on a time line, and the recommendations with their scores and the past
events that carry them. Leave events out, or go back to an earlier day, and it shows what would be recommended
then. The page of an item has the items near to it. "Badly served" lists users whose later purchases, clicks
... the recommendations of some days ago would have missed.

It reads the state that the daily job published, and nothing else. For reasons and changes it also needs the
run that embed read, RUN, whose model embeds a changed history. Categories are the topics of the run's items,
or those of --category-of.

The server listens on 127.0.0.1 alone, changes nothing, and asks for no password: everybody with an account on
this machine can open it. From another machine: ssh -L 8080:127.0.0.1:8080 THIS-MACHINE.

It needs the extra "explore": pip install 'pinnerformer_jax[explore]'.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.serving.explorer import Explorer
from pinnerformer_jax.serving.explorer_app import make_app
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.shop_rules import add_flags, read_categories, rules_of
from pinnerformer_jax.serving.why import Explainer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    values = _parser().parse_args(argv)
    with errors_as_messages():
        if missing := [name for name in ("starlette", "uvicorn") if not find_spec(name)]:
            raise ValueError(f"explore needs {', '.join(missing)}: pip install 'pinnerformer_jax[explore]'")
        import uvicorn

        set_up_process()
        started = time.perf_counter()
        listener = _listen(values.port)
        explorer = open_explorer(values)
        settings = uvicorn.Config(
            make_app(explorer), log_level="warning", server_header=False, lifespan="off"
        )
        print(f"state read in {time.perf_counter() - started:.1f} s")
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/   (Ctrl+C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[listener])
    return 0


def open_explorer(values: argparse.Namespace) -> Explorer:
    """Read the state, and the run if one is named.

    Args:
        values: of the command line.

    Raises:
        FileNotFoundError, ValueError: no state or no run, a damaged file, or a run of another model.
    """
    recommender = Recommender.open(values.snapshots, keep_events=False)
    loaded = recommender.refresh()
    ids = loaded.items["item_id"].combine_chunks()
    categories: dict[Any, Any] = {}
    if values.category_of is not None:
        categories = read_categories(values.category_of, ids)
    if values.at_most is None:  # here categories may come without a cap
        values = argparse.Namespace(**{**vars(values), "category_of": None})
    recommender.rules = rules_of(values, ids)
    explainer = None
    missing = "Start explore with --workdir RUN (the run that embed read) for reasons and changes."
    if values.workdir is not None:
        explainer = Explainer.open(values.workdir, loaded, values.prepared)
        if not categories:
            catalog = explainer.model.catalog
            topics = zip(catalog.item_ids, catalog.topics, strict=True)
            categories = {item: topic for item, topic in topics if topic}
    return Explorer(recommender, explainer, missing, categories)


def _listen(port: int) -> socket.socket:
    """A socket on the loopback.

    Raises:
        ValueError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else "must be from 0 to 65535"
        raise ValueError(f"--port {port}: {why}; name another, or 0 for any that is free") from None
    return listener


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pinnerformer_jax.explore",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--snapshots", type=Path, required=True, metavar="DIR", help="where states are published"
    )
    parser.add_argument("--workdir", type=Path, metavar="RUN", help="the run that embed read")
    parser.add_argument(
        "--prepared", type=Path, metavar="DIR", help="the run's prepared folder, if it was moved"
    )
    parser.add_argument("--port", type=int, default=8080, help="0: any that is free (%(default)s)")
    add_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
