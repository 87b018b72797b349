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
from vislib.runs.tables import Row
from vislib.training import planning, tiny
from vislib.training.generation import Question, answers_of_models
from vislib.training.launch import LEARNT, Watch, train
from vislib.training.models import portable, read_facts
from vislib.training.planning import plan_rows
from vislib.training.settings import Settings
from vislib.training.sources import contract_rows, own_rows

BASE = "base"  # the arm without conversations: the same recipe on the model's own data alone
_REDRAWN_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained: settings of the processes, and the arm as one pass over the rows that passed
    would have it.
    """

    settings: Settings
    arm: Row

    @classmethod
    def of(cls, run: Run) -> "Plan":
        """Read, encode and count all rows (once, in `loader_workers` processes); nothing is trained
        yet.

        Raises InputError where no model, no row, or too few rows can be used.
        """
        p = run.params
        if p.caption_visible >= 0 and p.attention == "flash_attention_2":
            raise InputError(
                "attention is flash_attention_2, which takes no mask of our own, as caption_visible"
                " needs; set attention to sdpa in all arms, or caption_visible to -1"
            )
        settings = planning.settings_of(
            run,
            reports=str(run.folder / "tensorboard"),
            run_name=f"{run.stage.run.name}/{run.stage.name}",
        )
        held_out = _held_out(run, settings)  # fewer rows: a fault is found sooner
        settings, arm = planning.plan_arm(
            run,
            settings,
            _rows(run),
            # one name for all arms of a model, whatever folder or stage it was trained in
            model=p.model_name or read_facts(settings.model).get("model"),
            arm=p.arm or Path(p.conversations).name or BASE,
            conversations=portable(p.conversations),
        )
        return cls(settings=replace(settings, held_out=held_out), arm=arm)

    @property
    def remark(self) -> str:
        """What must stand beside every number of a tiny model."""
        is_tiny = self.arm["base"] in tiny.NAMES
        return "a tiny random model: the path, not a result" if is_tiny else ""


def _rows(run: Run) -> dict[str, Iterator[Row]]:
    """The conversations, then the own data."""
    p, folder = run.params, run.input("own_images")
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"own_images is {p.own_images!r}, but {folder} is no folder; name the one that holds"
            " images"
        )
    own = own_rows(
        run.inputs("own_data"),
        images=folder,
        fraction=p.own_fraction,
        seed=run.seed,
        store=run.scratch / "images",
    )
    if not p.conversations:
        return {"own row": own}
    # in this order: that of rows is that of their sources
    return {"conversation": _conversations(run, p.max_samples, "train"), "own row": own}


def _conversations(run: Run, most: int, split: str) -> Iterator[Row]:
    table, images = run.table("conversations"), run.table("images")
    level = run.params.caption_visible
    if level >= 0 and split == "test":
        level = 0  # held-out losses compare: each arm is asked as users ask, without a caption
    return contract_rows(
        table, images, max_samples=most, seed=run.seed, split=split, caption_visible=level
    )


def _held_out(run: Run, settings: Settings) -> str:
    """The file of the test rows that are evaluated while it trains, "" if none are asked for."""
    if settings.load_best and not settings.eval_steps:
        raise InputError("load_best is true, but eval_steps is 0: set how often to evaluate")
    if not settings.eval_steps:
        return ""
    if not run.params.conversations:
        raise InputError(
            f"eval_steps is {settings.eval_steps}, but conversations is empty: the rows that are"
            " evaluated are its test split; set eval_steps to 0 in a base arm"
        )
    rows = _conversations(run, run.params.eval_samples, "test")
    return plan_rows(run, {"test conversation": rows}, settings, name="held_out")


def finetune(run: Run, plan: Plan, *, watch: Watch = lambda event: None) -> None:
    """Train the arm and write `steps`, `arms` and the folder `data/model`; `watch` gets every event
    meanwhile.

    Goes on from the last checkpoint after a stop. Adds speed, memory and evaluation to the metrics.
    Raises InputError.
    """
    learnt = train(run, plan.settings, watch=watch)
    watch({"event": "end"})  # the last steps came within the pause between two drawings
    arm = plan.arm | {name: learnt[name] for name in LEARNT}
    for name, rows in {"steps": learnt["log"], "arms": [arm]}.items():
        tables.write_table(run.data / name, run.schemas[name], rows)


def loss_curve() -> Watch:
    """What draws the loss while it trains, when given to `finetune`: of the steps so far, and of
    held-out rows.

    Drawn anew every few seconds at most: a training of hours has more steps than a line has dots.
    """
    import time

    import matplotlib.pyplot as plt
    import pandas as pd
    from IPython.display import display

    losses, drawn = list[Row](), list[float]()

    def watch(event: Row) -> None:
        if event["event"] in ("step", "evaluation"):
            losses.append({name: event.get(name) for name in ("step", "loss", "eval_loss")})
        waited = not drawn or time.monotonic() - drawn[-1] > _REDRAWN_S
        if losses and (waited or event["event"] == "end"):
            # evaluations are rarer than steps: a line joins them
            table = pd.DataFrame(losses).groupby("step").first().astype(float)
            axes = table.interpolate().plot(marker=".", figsize=(6, 2.5), ylabel="loss")
            # an open figure would be shown once more when the cell ends
            plt.close(axes.figure)
            place = str(id(losses))
            display(axes.figure, display_id=place, update=bool(drawn))  # type: ignore[no-untyped-call]
            drawn.append(time.monotonic())

    return watch


def answers(run: Run, plan: Plan, rows: list[Row], *, max_tokens: int = 32) -> list[Row]:
    """The rows with their first `question`, the answer that is `expected`, and those of the model
    `before` and `after`.
    """
    settings = plan.settings
    # of several images the first: the answer may then lack one, and is left empty
    asked = [Question(row["conversations"][0]["value"], row["picture"], max_tokens) for row in rows]
    before, after = answers_of_models(
        run,
        [settings.model, settings.output],
        asked,
        device=settings.device,
        precision=settings.precision,
    )
    told = []
    for row, question, first, second in zip(rows, asked, before, after, strict=True):
        said = {"question": question.text, "expected": row["conversations"][1]["value"]}
        told.append(row | said | {"before": first.text or "", "after": second.text or ""})
    return told
