"""``python -m bench``: the same program as the console script ``bench``."""

from bench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
