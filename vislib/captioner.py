"""Stage 11: image and web context (and priors) -> caption, trained on the captions of a set and
held to some that it has not seen (VisCon-100K, section 5.6).

That is how VisCon-1M and the larger part of DenseFusion-1M came about: the captioner takes the
place of the model that wrote the first 100 K captions, as an engine of stage 06. The paper's gains
4 BLEU and 3 ROUGE-L F1. Beside before and after stand here the alternative texts, which need no
model, and the trained model with another page's context: only one that reads the page writes worse
captions then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vislib import prompts
from vislib.captioner_data import REFUSED, UNLEARNT, Captions, Example, swapped
from vislib.captioner_scores import score_systems
from vislib.engines.thoughts import without_thoughts
from vislib.prompts.captions import PAGE
from vislib.runs import Run, choose, tables
from vislib.runs.tables import Row
from vislib.training import launch, planning
from vislib.training.generation import Question, answers_of_models
from vislib.training.models import portable
from vislib.training.settings import Settings

SYSTEMS = {
    "before": "the model as it was, asked the same",
    "after": "the trained model",
    "after_swapped": (
        "the trained model, shown the image with another page's address, text and alternative text"
    ),
    "alt_text": "the alternative text alone",
}
_DIFFERENCES = (("after", "before"), ("after", "after_swapped"))
_OF_PAGE = frozenset((*PAGE, "world_knowledge"))  # fields that another page fills anew
Texts = dict[str, list[str]]  # captions of each system, in the order of the held-out examples


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained and what is asked: settings of the processes, held-out captions, and the row
    of `arms` but for tokens and steps.
    """

    settings: Settings
    captions: Captions
    held_out: Sequence[Example]
    arm: Row

    @classmethod
    def of(cls, run: Run) -> "Plan":
        """Join, split and encode all captions (encoding once, in `loader_workers` processes);
        nothing is trained yet.

        Raises InputError where no model or too few captions can be used.
        """
        params, captions = run.params, Captions.of(run)
        held = captions.held_out()
        settings = planning.settings_of(
            run,
            # The parameter of that name is a number of captions; training takes a file of rows.
            held_out="",
            # Servers load whole weights.
            merge=True,
        )
        settings, arm = planning.plan_arm(
            run,
            settings,
            {"caption": captions.entries()},
            model="",
            arm="captioner",
            conversations=f"{portable(params.captions)} {params.kind}",
        )
        facts = {**settings.facts, "prompt_sha": captions.template.sha}
        # Those that are learnt from are accounted for by their encoding.
        run.sql(REFUSED, into="dropped", joined=captions.joined)
        run.account("caption", taken=UNLEARNT, joined=captions.joined)
        settings = replace(settings, facts=facts)
        return cls(settings=settings, captions=captions, held_out=held, arm=arm)


def write(run: Run, plan: Plan) -> Texts:
    """What each system writes for the held-out examples; nothing is asked twice."""
    held = plan.held_out
    # Asked after the training: its processes need the whole GPU.
    texts = {"before": _answers(run, plan, plan.settings.model, held, "before")}
    shows_page = plan.captions.template.fields & _OF_PAGE
    other = swapped(held, run.seed) if shows_page else []
    answers = _answers(run, plan, plan.settings.output, (*held, *other), "after")
    texts["after"] = answers[: len(held)]
    if other:  # a prompt without a word of the page has nothing to swap
        texts["after_swapped"] = answers[len(held) :]
    # It knows no model: whoever trains must do better.
    texts["alt_text"] = [example.sample["alt_text"] or "" for example in held]
    for system, own in texts.items():
        # As 06 writes them: a placeholder of training must not come out of a model.
        texts[system] = [prompts.neutralise(text)[0] for text in own]
    return texts


def _answers(run: Run, plan: Plan, model: str, examples: Sequence[Example], when: str) -> list[str]:
    """A model's captions; one that could not be had counts as an empty one, and in the metrics."""
    settings = plan.settings
    asked = []
    for example in examples:
        text = plan.captions.question(example)
        asked.append(Question(text, str(example.path), run.params.max_answer_tokens))
    # In a process of its own, greedy, and journalled one by one.
    (replies,) = answers_of_models(
        run,
        [model],
        asked,
        batch_size=settings.device_batch_size,
        device=settings.device,
        precision=settings.precision,
        progress=f"captions {when}",
    )
    # A system that fails often must not gain by it: an empty caption scores 0.
    run.metrics[f"failed_{when}"] = sum(reply.text is None for reply in replies)
    return [without_thoughts(reply.text or "") for reply in replies]


def score(run: Run, plan: Plan, totals: Mapping[str, Any], texts: Texts) -> None:
    """Write `steps`, `arms`, `predictions` and `scores` of what was learnt (`launch.train`) and
    written (`write`).
    """
    held = plan.held_out
    run.metrics["captions_held_out"] = len(held)
    predictions = [
        {
            "sample_id": example.name,
            "doc_id": example.sample["doc_id"],
            "system": system,
            "caption": text,
            "reference": example.caption,
        }
        for system, written in texts.items()
        for example, text in zip(held, written, strict=True)
    ]
    references = [example.caption for example in held]
    pages = [example.page for example in held]
    # A prompt without the page has no swapped system.
    pairs = [pair for pair in _DIFFERENCES if texts.keys() >= set(pair)]
    made = {
        "steps": totals["log"],
        "arms": [plan.arm | {name: totals[name] for name in launch.LEARNT}],
        "predictions": predictions,
        "scores": score_systems(texts, references, pages, differences=pairs, seed=run.seed),
    }
    for table, rows in made.items():
        tables.write_table(run.data / table, run.schemas[table], rows)


def examples(plan: Plan, texts: Texts, count: int) -> list[Row]:
    """A seeded handful of held-out samples with `picture`, `reference` and the caption of each
    system.
    """
    held, seed = plan.held_out, plan.captions.seed
    found = []
    for number in choose(range(len(held)), count, seed, key=lambda number: held[number].name):
        example = held[number]
        # Beside each other, as what differs is the point.
        captions = {system: written[number] for system, written in texts.items()}
        shown = {"picture": example.path, "reference": example.caption}
        found.append(example.sample | captions | shown)
    return found
