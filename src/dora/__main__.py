"""The ``dora`` command, also as ``python -m dora``."""

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from dora.cli.main import main as run

        run()
    except KeyboardInterrupt:  # before a command began
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
