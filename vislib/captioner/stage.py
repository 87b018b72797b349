"""The stage function of 11: train a captioner, and hold it to captions that it has not seen
(VisCon-100K, section 5.6).

The paper's gains 4 BLEU and 3 ROUGE-L F1. Beside before and after stand here two baselines that
need no model, and the trained model with another page's context: only one that reads the page
writes worse captions then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vislib import prompts
from vislib.captioner.rows import Captions, Example, Split, swapped
from vislib.captioner.scores import score_systems
from vislib.engines import Request
from vislib.engines.extractive import Extractive
from vislib.engines.thoughts import without_thoughts
from vislib.runs import Run, choose, tables
from vislib.runs.tables import Output, Row
from vislib.training import planning
from vislib.training.generation import JOURNAL, Question, answer_to, answers_of_models
from vislib.training.launch import placed, train
from vislib.training.models import resolve_model
from vislib.training.planning import Planned, plan_rows
from vislib.training.settings import Settings

SYSTEMS = {
    "before": "the model as it was, asked the same",
    "after": "the trained model",
    "after_swapped": (
        "the trained model, shown the image with another page's address, text and alternative text"
    ),
    "extractive": "the page's own words and measured picture facts, by rules",
    "alt_text": "the alternative text alone",
}
REASONS = {
    "caption_failed": "stage 06 has no usable caption",
    "sample_unknown": "the samples lack the caption's",
    "image_failed": "the image has no file",
    "no_priors": "the experts did not see the image, and captions of this kind need that",
    "image_in_train": "held out, but another page shows the same image and is learnt from",
    "not_chosen": "held out, beyond the number that `held_out` allows",
}  # beside those of a row that cannot be encoded
_DIFFERENCES = (("after", "before"), ("after", "after_swapped"))
_OF_PAGE = frozenset(
    ("page_url", "alt_text", "context", "world_knowledge")
)  # fields that another page fills anew
_LEARNT = ("rounds", "tokens", "image_tokens", "supervised_tokens")  # in all steps
Texts = Mapping[
    str, Sequence[str]
]  # captions of each system, in the order of the held-out examples


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained and what is asked: settings of the processes, held-out captions, rows that
    passed.
    """

    settings: Settings
    captions: Captions
    split: Split
    planned: Planned

    @classmethod
    def of(cls, run: Run) -> "Plan":
        """Join, split and encode all captions (encoding once, in `loader_workers` processes);
        nothing is trained yet.

        Raises InputError where no model or too few captions can be used.
        """
        captions = Captions.of(run)
        split = Split.of(captions, most=run.params.held_out)
        settings = Settings.of(
            run.params,
            model=resolve_model(run.params.model, run),
            checkpoints=str(run.scratch / "checkpoints"),
            output=str(run.data / "model"),
            merge=True,
        )
        placed(settings)  # what this machine lacks is said before rows are read for hours
        planned = plan_rows(run, captions.entries(), settings)
        settings = replace(settings, rows=str(planned.rows))
        return cls(settings=settings, captions=captions, split=split, planned=planned)


def train_captioner(run: Run) -> None:
    """Train on the captions, ask for those held out, and write `model`, `steps`, `arms`,
    `predictions` and `scores`.

    After a stop, goes on from the last checkpoint and asks nothing twice. Raises InputError.
    """
    plan = Plan.of(run)
    arm = _arm(run, plan)
    totals = train(run, plan.settings, arm | {"prompt_sha": plan.captions.template.sha})
    texts = _written(run, plan)
    with run.output() as output:
        _account(output, plan)
        for step in totals["log"]:
            output.write("steps", step)
        output.write("arms", arm | {name: totals[name] for name in (*_LEARNT, "steps")})
        _write_scored(output, plan, texts, run.seed)


def _arm(run: Run, plan: Plan) -> Row:
    """The row of `arms` but for tokens and steps."""
    counts, captions = plan.planned.counts(), _without_folder(run.params.captions)
    return {
        "model": Path(run.params.model.partition("@")[0]).name,
        "arm": "captioner",
        "seed": run.seed,
        "base": _without_folder(run.params.model),
        "method": run.params.method,
        "conversations": f"{captions} {run.params.kind}",
        "samples": counts["rows"],
        "rows": counts["rows"],
        "own_rows": 0,
        "text_only_rows": 0,
    }


def _without_folder(value: str) -> str:
    """A parameter's value as a record may hold it: of an absolute path the last part."""
    return Path(value).name if Path(value).expanduser().is_absolute() else value


def _written(run: Run, plan: Plan) -> Texts:
    """What each system writes for the held-out examples."""
    held = plan.split.held_out
    texts = {"before": _answers(run, plan, plan.settings.model, held, "before")}
    other = swapped(held, run.seed) if plan.captions.template.fields & _OF_PAGE else []
    answers = _answers(run, plan, plan.settings.output, (*held, *other), "after")
    texts |= {"after": answers[: len(held)]} | (
        {"after_swapped": answers[len(held) :]} if other else {}
    )
    written = Extractive().answer(_request(example, plan.captions.kind) for example in held)
    texts["extractive"] = [answer.text for _, answer in written]
    texts["alt_text"] = [example.sample["alt_text"] or "" for example in held]
    return {
        system: [prompts.neutralise(text)[0] for text in written]
        for system, written in texts.items()
    }


def _answers(run: Run, plan: Plan, model: str, examples: Sequence[Example], when: str) -> list[str]:
    """A model's captions; one that could not be had counts as an empty one, and in the metrics."""
    settings, most = plan.settings, run.params.max_answer_tokens
    asked = [Question(e.name, plan.captions.question(e), str(e.path), most) for e in examples]
    (key,) = answers_of_models(
        run,
        [model],
        asked,
        batch_size=settings.device_batch_size,
        device=settings.device,
        precision=settings.precision,
        progress=f"captions {when}",
    )
    answers = [answer_to(run.journal(JOURNAL), key, question) for question in asked]
    run.metrics[f"failed_{when}"] = answers.count(None)
    return [without_thoughts(answer or "")[0] for answer in answers]


def _request(example: Example, kind: str) -> Request:
    """What stage 06 asks of its `extractive` engine, with its own seed of 0 whatever the
    training's.
    """
    evidence = {
        "task": "caption",
        "kind": kind,
        "sample": example.sample,
        "caption": "",
        "image_path": str(example.path),
        "priors": example.priors,
    }
    return Request(id=example.name, prompt="", prompt_sha="", evidence=evidence)


def _account(output: Output, plan: Plan) -> None:
    """Every caption of the kind is learnt from, held out, or dropped with its reason."""
    output.take("caption", plan.split.taken)
    output.keep("caption", plan.planned.counts()["rows"] + len(plan.split.held_out))
    for lost in (*map(vars, plan.split.refused), *plan.planned.refusals()):
        output.drop("caption", lost["id"], lost["reason"], lost["detail"])
    output.note("captions_held_out", len(plan.split.held_out))
    output.note("truncated_rows", plan.planned.truncated)


def _write_scored(output: Output, plan: Plan, texts: Texts, seed: int) -> None:
    held = plan.split.held_out
    for system, written in texts.items():
        for example, text in zip(held, written, strict=True):
            output.write(
                "predictions",
                {
                    "sample_id": example.name,
                    "doc_id": example.sample["doc_id"],
                    "system": system,
                    "caption": text,
                    "reference": example.caption,
                },
            )
    references, pages = [e.caption for e in held], [e.page for e in held]
    pairs = [pair for pair in _DIFFERENCES if set(pair) <= set(texts)]
    for row in score_systems(texts, references, pages, differences=pairs, seed=seed):
        output.write("scores", row)


def learnt(run: Run, count: int) -> list[Row]:
    """A seeded handful of rows with `picture` and the exact `text` that the model reads, learnt
    parts in ⟦⟧.
    """
    plan = Plan.of(run)
    return planning.examples(plan.planned, plan.settings, count, run.seed)


def examples(run: Run, count: int) -> list[Row]:
    """A seeded handful of held-out samples with `picture`, `reference` and the caption of each
    system.
    """
    rows: dict[str, Row] = {}
    for row in tables.read_rows(run.data / "predictions"):
        rows.setdefault(row["sample_id"], {"reference": row["reference"]})[row["system"]] = row[
            "caption"
        ]
    chosen = choose(rows, count, run.seed)
    samples = tables.lookup(run.table("samples"), "sample_id", chosen)
    files = tables.lookup(
        run.table("images"), "image_url", {s["image_url"] for s in samples.values()}, ["path"]
    )
    folder = run.table("images").parent
    return [
        samples[name] | rows[name] | {"picture": folder / files[samples[name]["image_url"]]["path"]}
        for name in chosen
    ]
