"""`python -m vislib.run SET [--only NAME] [--from NAME] [--force] [--dry-run] [--status]`."""

import sys

from vislib.runs.runner import main

if __name__ == "__main__":
    sys.exit(main())
