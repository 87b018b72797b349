"""SQL over the Parquet tables of a run, so that a figure's notebook shows how its table is made."""

from pathlib import Path
from typing import Any

import duckdb

from vislib.runs import InputError
from vislib.runs.tables import parts

# `vislib.runs.seeded` in SQL: ORDER BY seeded(seed, id) LIMIT n is a choice that no order changes
_SEEDED = "CREATE MACRO seeded(seed, id) AS left(sha256(concat(seed, chr(0), id)), 16)"


def query(sql: str, **tables: Any) -> Any:
    """The rows of a DuckDB query as a pandas table; it names each of `tables` by its keyword: a
    folder of Parquet, a list of folders that hold one table together, or a pandas table.

    Only an ORDER BY fixes the order of rows. Raises InputError for a table that lacks a column.
    """
    with duckdb.connect() as connection:
        connection.execute(_SEEDED)
        for name, table in tables.items():
            folders = [table] if isinstance(table, Path) else table
            # pandas tables come in as they are: steps of a notebook join with the run's tables
            if isinstance(folders, list):
                files = [str(part) for folder in folders for part in parts(folder)]
                connection.read_parquet(files).create_view(name)
            else:
                connection.register(name, table)
        # duckdb names the column alone: say which folders were asked
        try:
            return connection.sql(sql).df()
        except duckdb.BinderException as error:
            places = ", ".join(f"{n} is {t}" for n, t in tables.items() if isinstance(t, Path))
            raise InputError(f"{error}; {places}: take tables of this run's own stages") from error
