"""`python -m tests.golden [RUN]`: write the golden rows anew.

They are those of `RUN`, the folder of a finished run of params/sample, or of one made for it.
"""

import sys
import tempfile
from pathlib import Path

from tests.golden import FOLDER, read_run, write_golden
from tests.sets import run_sample

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run = Path(sys.argv[1]) if sys.argv[1:] else run_sample(Path(folder))
        write_golden(read_run(run))
    print(f"{FOLDER}: {sum(f.stat().st_size for f in FOLDER.iterdir()) // 1000} KB")
