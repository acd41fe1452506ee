"""`python -m keras_gradopt.testing package.module:Class`: checks an optimizer."""

import argparse
import importlib
import sys
from typing import Any

from keras_gradopt.testing.registry import CHECKS
from keras_gradopt.testing.report import Report
from keras_gradopt.testing.running import checks, factory_name, outcomes


def factory(where: str) -> Any:
    """The class or function at `package.module:Name`."""
    module, _, name = where.partition(":")
    if not name:
        raise argparse.ArgumentTypeError(f"{where}: should be package.module:Class")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{where}: {error}") from error


def main(arguments: list[str] | None = None) -> int:
    """Prints each outcome as it comes; returns 1 if a check failed, else 0."""
    parser = argparse.ArgumentParser("python -m keras_gradopt.testing")
    parser.add_argument(
        "factory",
        type=factory,
        help="package.module:Class, or a function there that makes an optimizer",
    )
    parser.add_argument("--base", type=factory, help="the same of its base")
    parser.add_argument(
        "--skip", nargs="+", default=[], choices=CHECKS, metavar="CHECK",
        help=f"some of {', '.join(CHECKS)}",
    )  # fmt: skip
    parser.add_argument(
        "--strict", action="store_true", help="what Keras' Adam fails must pass, too"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print a table in Markdown"
    )
    args = parser.parse_args(arguments)
    made = checks(args.factory, base=args.base, skip=args.skip, strict=args.strict)
    found = []
    for outcome in outcomes(made):
        if not args.markdown:
            print(
                f"{outcome.status:8} {outcome.check.name:22} {outcome.saw}", flush=True
            )
        found.append(outcome)
    report = Report(factory_name(args.factory), tuple(found))
    print(report.markdown() if args.markdown else f"{report.name}: {report.summary()}")
    return not report.passed


if __name__ == "__main__":
    sys.exit(main())
