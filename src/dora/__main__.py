"""``python -m dora`` is the ``dora`` command of this interpreter."""

from dora.cli.main import main

if __name__ == "__main__":
    main()
