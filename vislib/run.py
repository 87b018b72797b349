"""`python -m vislib.run SET [--only NAME] [--from NAME] [--force] [--accept NAME] [--redo NAME]
[--dry-run] [--status]`.
"""

import sys

from vislib.runs.runner import main

if __name__ == "__main__":
    sys.exit(main())
