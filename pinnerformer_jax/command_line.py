"""The command line that every verb shares: `--config FILE`, then any setting by its name."""

from __future__ import annotations

import argparse
import contextlib
import errno
import signal
import sys
from collections.abc import Callable, Generator, Sequence

from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import load_config


def parse(
    description: str,
    argv: Sequence[str] | None = None,
    flags: argparse.ArgumentParser | None = None,
    config_of: Callable[[argparse.Namespace], Config | None] = lambda values: None,
) -> tuple[argparse.Namespace, Config]:
    """Read a verb's own flags and the config, with the settings that the command line overrides.

    Args:
        description: what the verb does, for --help.
        argv: the arguments; None: those of the process.
        flags: the verb's flags besides --config, as a parser built with `add_help=False`.
        config_of: the config that these flags ask for instead of --config; None: they ask for none.

    Returns:
        the verb's flags, and the config as overridden. Wrong usage ends the process with code 2.
    """
    import tyro

    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        description=description,
        usage="%(prog)s --config FILE [--section.setting value ...]",
        parents=[flags] if flags else [],
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="Python file that builds `config`, such as configs/demo.py"
    )
    if {"-h", "--help"} & set(argv):
        before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` ends quietly
        try:
            parser.print_help()
            all_settings = "All settings, with their defaults:"
            tyro.cli(Config, default=Config(), args=["--help"], description=all_settings)
        finally:
            sys.stdout.flush()
            signal.signal(signal.SIGPIPE, before)
    values, overrides = parser.parse_known_args(argv)
    with errors_as_messages():
        config = config_of(values)
    if config is None:
        if values.config is None:
            parser.error("--config FILE is needed; those that come with the project are in configs/")
        with errors_as_messages():
            config = load_config(values.config)
    return values, tyro.cli(Config, default=config, args=overrides, description=description)


def count(text: str) -> int:
    """Type of an argument that is a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def share(text: str) -> tuple[int, int]:
    """Type of an argument I/N, the I-th of N shares of the work, from 1 on: (I - 1, N)."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 3/8, with I from 1 to N")
    return int(number) - 1, int(of)


def add_engine(parser: argparse.ArgumentParser, engine: str, workers: str) -> None:
    """Add --engine, --workers and --ray-address; the texts say what the first two mean for the verb."""
    parser.add_argument("--engine", choices=("processes", "ray"), help=engine)
    parser.add_argument("--workers", type=count, metavar="N", help=workers)
    parser.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="of a running cluster with shared folders; else Ray runs here",
    )


def check_engine(parser: argparse.ArgumentParser, values: argparse.Namespace) -> None:
    """End the process with code 2 if flags of `add_engine` lack those that they go with."""
    if (values.workers or values.ray_address) and not values.engine:
        parser.error("--workers and --ray-address go with --engine")
    if values.ray_address and values.engine != "ray":
        parser.error("--ray-address goes with --engine ray")


@contextlib.contextmanager
def errors_as_messages() -> Generator[None, None, None]:
    """Wrong input (ValueError, OSError) ends the process with its message on stderr and code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        full = "the disk is full: " if isinstance(error, OSError) and error.errno == errno.ENOSPC else ""
        print(f"error: {full}{error}", file=sys.stderr)
        raise SystemExit(2) from None
