"""Stage 10: a vision-language model is fine-tuned on one data configuration: one arm of Table 1
(VisCon-100K, 5).

Every arm learns from the same share of the model's own data; all but the base arm add conversations
of stage 08, with the same recipe. The rows are planned first (`training.planning`), then a process
of its own trains (`training.launch`), so that the kernel never touches a GPU; what it reports
becomes the tables `steps` and `arms`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vislib.runs import InputError, Run, tables
from vislib.runs.keys import input_path
from vislib.runs.tables import Row
from vislib.training import planning, tiny
from vislib.training.launch import placed, train
from vislib.training.models import read_facts, resolve_model
from vislib.training.planning import Planned, plan_rows
from vislib.training.settings import Settings
from vislib.training.sources import OWN, VISUAL, Entry, contract_rows, own_rows, train_parts

BASE = "base"  # the arm without conversations: the same recipe on the model's own data alone
_LEARNT = ("rounds", "tokens", "image_tokens", "supervised_tokens")  # in all steps


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained: settings of the processes, rows that passed, and the arm as one pass over
    them would have it.
    """

    settings: Settings
    planned: Planned
    arm: Row

    @classmethod
    def of(cls, run: Run) -> "Plan":
        """Read, encode and count all rows (once, in `loader_workers` processes); nothing is trained
        yet.

        Raises InputError where no model, no row, or too few rows can be used.
        """
        settings = Settings.of(
            run.params,
            model=resolve_model(run.params.model, run),
            checkpoints=str(run.scratch / "checkpoints"),
            output=str(run.data / "model"),
        )
        placed(settings)  # what this machine lacks is said before rows are read for hours
        planned = plan_rows(run, _entries(run), settings)
        arm = _arm(run, settings, planned)
        return cls(settings=replace(settings, rows=str(planned.rows)), planned=planned, arm=arm)

    @property
    def remark(self) -> str:
        """What must stand beside every number of a tiny model."""
        return (
            "a tiny random model: the path, not a result" if self.arm["base"] in tiny.NAMES else ""
        )


def _entries(run: Run) -> Iterator[Entry]:
    """Rows of the conversations, then of the own data."""
    p, conversations = run.params, run.input("conversations")
    if conversations is not None:
        yield from contract_rows(
            conversations, run.table("images"), max_samples=p.max_samples, seed=run.seed
        )
    folder = input_path(p.own_images, run.stage.run) if p.own_images else None
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"own_images is {p.own_images!r}, but {folder} is no folder; name the one that holds"
            " images"
        )
    yield from own_rows(
        run.inputs("own_data"),
        images=folder,
        fraction=p.own_fraction,
        seed=run.seed,
        store=run.scratch / "images",
    )


def _arm(run: Run, settings: Settings, planned: Planned) -> Row:
    """The row of `arms` but for its steps, with the tokens of one pass."""
    p, counts = run.params, planned.counts()
    trained_as = read_facts(settings.model).get(
        "model"
    )  # of a model that an earlier stage of this kind made
    return {
        "model": p.model_name or trained_as or Path(p.model.partition("@")[0]).name,
        "arm": p.arm or Path(p.conversations).name or BASE,
        "seed": run.seed,
        "base": _without_folder(p.model),
        "method": p.method,
        "conversations": _without_folder(p.conversations),
        "samples": _samples(run, planned),
        "rows": counts["rows"],
        "own_rows": counts[f"{OWN}_rows"],
        "text_only_rows": counts["text_only_rows"],
        **{name: counts[name] for name in _LEARNT},
    }


def _samples(run: Run, planned: Planned) -> int:
    """How many samples of the conversations have a row that passed (`separate` has two rows of
    each).
    """
    table = run.input("conversations")
    if table is None:
        return 0
    rows = tables.read_rows(planned.rows, ["id", "source"])
    kept = {row["id"] for row in rows if row["source"] == VISUAL}
    found = (
        row for part in train_parts(table) for row in tables.read_rows(part, ["id", "sample_id"])
    )
    return len({row["sample_id"] for row in found if row["id"] in kept})


def _without_folder(value: str) -> str:
    """A parameter's value as a record may hold it: of an absolute path the last part."""
    return Path(value).name if Path(value).expanduser().is_absolute() else value


def finetune(run: Run) -> None:
    """Train the arm and write `steps`, `arms`, `dropped` and the folder `data/model`.

    Goes on from the last checkpoint after a stop. Adds speed and memory to the metrics. Raises
    InputError.
    """
    plan = Plan.of(run)
    print(
        f"{plan.planned.account()}\n{plan.planned.truncated} of them end at max_length."
        f" {plan.remark}",
        flush=True,
    )
    facts = {name: value for name, value in plan.arm.items() if name not in _LEARNT}
    totals = train(run, plan.settings, facts | {"base": run.params.model})
    with run.output() as output:
        output.take("row", plan.arm["rows"])
        output.keep("row", plan.arm["rows"])
        for row in plan.planned.refusals():
            output.take("row")
            output.drop("row", row["id"], row["reason"], row["detail"])
        output.note("truncated_rows", plan.planned.truncated)
        output.note("turns_left_out", plan.planned.counts()["n_left_out"])
        output.note("characters_mended", plan.planned.counts()["n_mended"])
        for step in totals["log"]:
            output.write("steps", step)
        output.write("arms", plan.arm | {name: totals[name] for name in (*_LEARNT, "steps")})


def examples(run: Run, count: int) -> list[Row]:
    """A seeded handful of accepted rows with `picture` and the exact `text` that a model reads,
    learnt parts in ⟦⟧.
    """
    plan = Plan.of(run)
    return planning.examples(plan.planned, plan.settings, count, run.seed)
