"""The ground under the stages: parameters, keys, tables, shards, journal, accounts and records of
runs.
"""

from vislib.runs.errors import InputError
from vislib.runs.record import Run
from vislib.runs.seeding import choose, seeded, short_hash
from vislib.runs.start import start_run
from vislib.runs.verbs import Drop, Note, To

DATA_VERSION = 1  # raised when a mended fault changes what comes out of this room

__all__ = ["Drop", "InputError", "Note", "Run", "To", "choose", "seeded", "short_hash", "start_run"]
