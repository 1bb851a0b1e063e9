"""`python -m modelmill`."""

import sys

from modelmill.cli import main

if __name__ == "__main__":
    sys.exit(main())
