"""The accounts of a stage: of each unit (document, image, ...) how many were taken, how many went
on, and how many were dropped for which reason. Nothing is lost in silence.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislib.runs import sql
from vislib.runs.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


class Accounts:
    """Counts of each verb, named `unit/taken`, `unit/kept`, `unit/dropped/REASON` and `note/NAME`.

    Kept by verb: a cell that is run twice counts once.
    """

    def __init__(self) -> None:
        self.by_verb: dict[str, Counter[str]] = {}

    def total(self) -> Counter[str]:
        """The counts of all verbs."""
        total = Counter[str]()
        for counts in self.by_verb.values():
            total.update(counts)
        return total

    def notes(self) -> dict[str, int]:
        """Numbers that functions have noted, by name."""
        found = sorted(self.total().items())
        return {name.removeprefix("note/"): n for name, n in found if name.startswith("note/")}

    def units(self) -> dict[str, dict[str, Any]]:
        """`{unit: {taken, kept, dropped: {reason: n}}}`."""
        units: dict[str, dict[str, Any]] = {}
        for name, n in sorted(self.total().items()):
            unit, what, *reason = name.split("/", 2)
            if unit == "note":
                continue
            entry = units.setdefault(unit, {"taken": 0, "kept": 0, "dropped": {}})
            if reason:
                entry["dropped"][reason[0]] = n
            else:
                entry[what] = n
        return units

    def table(self) -> "pd.DataFrame":
        """Columns `unit`, `what` (taken, kept, dropped: REASON) and `count`."""
        import pandas as pd

        rows = []
        for unit, entry in self.units().items():
            dropped = {f"dropped: {reason}": n for reason, n in entry.pop("dropped").items()}
            rows += [(unit, what, n) for what, n in (entry | dropped).items()]
        return pd.DataFrame(rows, columns=["unit", "what", "count"])

    def by_ids(
        self, unit: str, taken: str, kept: str, tables: Mapping[str, Path], scratch: Path
    ) -> Counter[str]:
        """Counts of a unit that is no row of a verb, by queries that give the ids `taken` and
        `kept`; without the latter what `dropped` does not hold is kept.

        Raises InputError for an id that is lost, doubled or invented.
        """
        # By ids and not by numbers: one lost and one doubled would look like none.
        kept = kept or f"SELECT id FROM ({taken}) t(id) WHERE id NOT IN (SELECT id FROM dropped)"
        faults = sql.select(
            f"""
            WITH taken AS (SELECT id, count(*) AS n FROM ({taken}) t(id) GROUP BY id),
            kept AS (SELECT id, count(*) AS n FROM ({kept}) t(id) GROUP BY id),
            set_aside AS (SELECT id, count(*) AS n FROM dropped SEMI JOIN taken USING (id)
                          GROUP BY id)
            SELECT id, coalesce(taken.n, 0), coalesce(kept.n, 0), coalesce(set_aside.n, 0)
            FROM taken FULL JOIN kept USING (id) FULL JOIN set_aside USING (id)
            WHERE coalesce(taken.n, 0) <> 1
               OR coalesce(kept.n, 0) + coalesce(set_aside.n, 0) <> 1
            ORDER BY id LIMIT 1
            """,
            tables,
            scratch,
        )
        for id, n_taken, n_kept, n_dropped in faults:
            raise InputError(
                f"{unit} {id} is taken {n_taken} times, kept {n_kept} times and dropped"
                f" {n_dropped} times; each that is taken is kept or dropped, once"
            )
        counts = sql.select(
            f"""
            SELECT '{unit}/dropped/' || reason, count(*) FROM dropped
            SEMI JOIN ({taken}) t(id) USING (id) GROUP BY ALL
            UNION ALL SELECT '{unit}/taken', count(*) FROM ({taken})
            UNION ALL SELECT '{unit}/kept', count(*) FROM ({kept})
            """,
            tables,
            scratch,
        )
        # What functions dropped of it is counted already.
        said = {name: n for name, n in self.total().items() if f"{unit}/dropped/" in name}
        return Counter(dict(counts)) - Counter(said)

    def check_closed(self) -> None:
        """Raise AssertionError for a unit of which more or fewer went on or were dropped than were
        taken: a fault of the code, as nothing that a user does may lose a row.
        """
        for unit, entry in self.units().items():
            if entry["taken"] != entry["kept"] + sum(entry["dropped"].values()):
                raise AssertionError(f"the accounts of {unit} do not close: {entry}")


def summary(record: Mapping[str, Any]) -> str:
    """One line of a record: each unit in, out and dropped; seconds, tokens, cost."""
    units = [
        f"{unit} {entry['taken']} in, {entry['kept']} out, {sum(entry['dropped'].values())} dropped"
        for unit, entry in record.get("counts", {}).items()
    ]
    if figures := sum(name.endswith(".pdf") for name in record.get("files", {})):
        units.append(f"{figures} figure{'s' if figures > 1 else ''}")
    units.append(f"{record.get('seconds', 0):.1f} s")
    used = Counter(record.get("usage", {}))
    if tokens := used["tokens_in"] + used["tokens_out"]:
        price = f"${used['usd']:.4f}" if used["usd"] else "no price set"
        units.append(f"{tokens} tokens, {price}")
    return " · ".join(units)
