"""``python -m stablegrad`` is the same as the command ``stablegrad``."""

import sys

from stablegrad.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
