"""Write vectors for a vector database: the inner product of a user's and an item's holds the priors.

    python -m pinnerformer_jax.vectors --snapshots DIR --out FOLDER

`recommend` adds the priors to the inner product, exactly. A vector database cannot. Its search by the plain
vectors of a state finds much less where people come back to items or popularity changes. These vectors are
longer: some more numbers hold the user's own counts, as well as so many numbers can, and one the popularity.
What they reach is the method "vectors" of evaluate, which also fits the weight; embed takes it into a state.

FOLDER gets users.parquet, items.parquet and vectors.json, which says how to search. Load both files of one
call together, and run it after each embed: popularity and own counts are as of the state's day.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.serving.vector_files import write_vectors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pinnerformer_jax.vectors",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--snapshots", type=Path, required=True, metavar="DIR", help="where states are published"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to write or to replace")
    values = parser.parse_args(argv)
    with errors_as_messages():
        about = write_vectors(values.snapshots, values.out)
    numbers = about["numbers"]
    print(f"score: {about['score']}")
    if about["priors"]["own_weight"] and not numbers["own_counts"]:
        print("own counts are in the served score and not in these vectors: run evaluate again, then embed")
    if about["leave_out_what_a_user_had"]:
        print("leave out what the user had: the database has to filter it")
    print(
        f"{values.out}: {about['users']:,} users, {about['items']:,} items, {numbers['all']} numbers each: "
        f"{numbers['model']} of the model, {numbers['own_counts']} of own counts, "
        f"{numbers['popularity']} of popularity; search by inner product, not by cosine"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
