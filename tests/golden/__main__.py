"""`python -m tests.golden [RUN]`: write the golden rows anew.

They are those of `RUN`, the folder of a finished run of params/sample (or of one made for it) or
of params/sample-models.
"""

import sys
import tempfile
from pathlib import Path

from tests.golden import FOLDER, MODELS, TRAINED, read_run, write_golden
from tests.sets import run_sample

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run = Path(sys.argv[1]) if sys.argv[1:] else run_sample(Path(folder))
        made, folder = read_run(run), FOLDER
        if run.name == MODELS.name:
            made = {name: rows for name, rows in made.items() if name.startswith(TRAINED)}
            folder = MODELS
        write_golden(made, folder)
    print(f"{folder}: {sum(f.stat().st_size for f in folder.iterdir()) // 1000} KB")
