"""From the logs of lmms-eval (0.7, `--log_samples`) to the contract's `results`, one row per question.

The harness reads a letter off the first character (SEED), guesses where it finds none (MMMU), or logs records without a
verdict (MMBench). So its verdicts are taken only where it compares free text or asks a judge; letters, yes and no are
read here by one rule for all. The options come from the prompt, which is all that a log keeps of a question.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vislib.evaluation.answers import answer_row, choice_row, yes_no_row
from vislib.evaluation.contextual_task import NAME
from vislib.evaluation.parsing import lenient_yes_no, options_in
from vislib.letters import LETTERS
from vislib.runs import InputError
from vislib.runs.tables import Row

JUDGED = ("llava_in_the_wild", "mmvet")  # tasks that need a judge
_MOST_OPTIONS = 5  # letters that are read where a prompt lists no options
_MME = {"mme_perception_score": "mme", "mme_cognition_score": "mme_cognition"}  # papers give the first
Log = Sequence[Mapping[str, Any]]
Refused = dict[str, str]  # reason and detail, in the place of a row


def read_log(task: str, log: Log) -> Iterator[Row | Refused]:
    """Results without model, arm and seed of the `log` of one task; a sample without a verdict gives its reason.

    The harness logs an empty answer where generation failed; where it counts tokens, such a one has no count. Raises
    InputError where all failed, and for a form that is not known.
    """
    failed = [sample for sample in log if not _said(sample) and not any(sample.get("token_counts", ()))]
    if log and len(failed) == len(log):
        raise InputError(f"tasks: {task} has {len(log)} answers without any text; see what failed in log.txt")
    if any(any(sample.get("token_counts", ())) for sample in log):
        for sample in failed:
            name = {"benchmark": task, "sample_id": str(sample["doc_id"])}
            yield {**name, "reason": "generation_failed", "detail": "an empty answer of no tokens; see log.txt"}
        log = [sample for sample in log if _said(sample) or any(sample.get("token_counts", ()))]
    if any(key in sample for sample in log for key in _MME):
        yield from _mme(log)
    elif log and "gpt_eval_llava_all" in log[0]:
        yield from _llava_bench(task, log)
    else:
        graded = any(sample.get("exact_match", 0) not in (0, 1) for sample in log)
        for sample in log:
            yield {"benchmark": task, **_read(task, sample, graded=graded)}


def _said(sample: Mapping[str, Any]) -> str:
    """What the model said; `filtered_resps` alone where no filter changed it."""
    said = sample.get("resps", sample["filtered_resps"])
    while isinstance(said, list):
        said = said[0] if said else ""
    return str(said).strip()


def _read(task: str, sample: Mapping[str, Any], *, graded: bool) -> Row | Refused:
    name, said, target = str(sample["doc_id"]), _said(sample), str(sample["target"]).strip()
    options = options_in(sample["input"])
    if NAME in sample:
        return choice_row(sample[NAME]["sample_id"], said, target, options, question_type="multiple_choice")
    if "pope_accuracy" in sample:
        return yes_no_row(name, said, target)
    if "score" in (judged := sample.get("gpt_eval_score", {})):
        if not judged["eval_model"]:
            return {"sample_id": name, "reason": "no_judgement", "detail": f"{task}: the judge gave no score"}
        return answer_row(name, said, target, points=float(judged["score"]), question_type=judged["capabilities"])
    if sample.get("mmmu_acc", {}).get("question_type") == "open":
        right = _open_answer_agrees(sample["mmmu_acc"])
        return answer_row(name, said, target, correct=right, strictly_correct=right, question_type="open")
    if len(target) == 1 and target in LETTERS and (options or "exact_match" not in sample):
        return choice_row(name, said, target, options or [""] * _MOST_OPTIONS, question_type=_type(sample))
    if isinstance(sample.get("exact_match"), int | float):
        if graded:  # by people's answers, which are not logged: the target names their column
            return answer_row(name, said, "", points=float(sample["exact_match"]))
        right = bool(sample["exact_match"])
        return answer_row(name, said, target, correct=right, strictly_correct=right)
    raise InputError(f"tasks: {task} logs {sorted(sample)}, which no reader here knows; leave it out of tasks")


def _type(sample: Mapping[str, Any]) -> str:
    if "seed_all" in sample:
        return next((key.removeprefix("seed_") for key in ("seed_image", "seed_video") if key in sample), "")
    return str(sample.get("gpt_eval_score", {}).get("L2-category") or "multiple_choice")


def _llava_bench(task: str, log: Log) -> Iterator[Row | Refused]:
    """Points: the judge's, over its mean for the reference answers: their mean is the benchmark's own score."""
    reviews = [(sample, sample["gpt_eval_llava_all"]) for sample in log]
    judged = [review["scores"] for _, review in reviews if min(review["scores"]) > 0]
    for sample, review in reviews:
        name = {"benchmark": task, "sample_id": str(sample["doc_id"])}
        if min(review["scores"]) <= 0:  # -1 where a judge gave no two numbers or did not answer
            yield {**name, "reason": "no_judgement", "detail": str(review["review"])[:200]}
            continue
        points = review["scores"][1] / (sum(first for first, _ in judged) / len(judged))
        kind = review["category"].removeprefix("llava_bench_")
        row = answer_row(name["sample_id"], _said(sample), str(sample["target"]), points=points, question_type=kind)
        yield name | row


def _mme(log: Log) -> Iterator[Row | Refused]:
    """One row per image, which has two questions. Points so that their mean is MME's score, a sum over categories of
    the mean of 100 x (share of right answers + 1 if both are right).
    """
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for sample in log:
        (key,) = (key for key in _MME if key in sample)
        found[_MME[key], sample[key]["category"], sample[key]["question_id"]].append(sample)
    pairs = {name: pair for name, pair in found.items() if len(pair) == 2}
    for (benchmark, category, image), pair in found.items():
        name = {"benchmark": benchmark, "sample_id": image}
        if len(pair) != 2:
            yield {**name, "reason": "unpaired", "detail": f"{len(pair)} questions of the image were asked, not 2"}
            continue
        right = [lenient_yes_no(_said(sample)) == lenient_yes_no(str(sample["target"])) for sample in pair]
        images = sum(other == benchmark for other, _, _ in pairs)
        weight = images / sum((benchmark, category) == names[:2] for names in pairs)
        said, target = (" / ".join(texts) for texts in zip(*((_said(s), str(s["target"])) for s in pair), strict=True))
        points = weight * 100 * (sum(right) / 2 + all(right))
        parsed = all(lenient_yes_no(_said(sample)) for sample in pair)
        row = answer_row(image, said, target, points=points, parsed=parsed, question_type=category)
        yield {**row, **name}


def _open_answer_agrees(record: Mapping[str, Any]) -> bool:
    """MMMU's own rule for open questions: a candidate that holds the answer's text, or is its number."""
    answers = record["answer"] if isinstance(record["answer"], list) else [record["answer"]]
    return any(_agrees(candidate, str(answer)) for candidate in record["parsed_pred"][0] for answer in answers)


def _agrees(candidate: str | float, answer: str) -> bool:
    try:
        number = round(float(answer.strip().replace(",", "")), 2)
    except ValueError:
        wanted = answer.strip().lower()
        forms = [f" {wanted}", f"{wanted} "] if len(wanted) == 1 else [wanted]  # else "a" stands in every word
        return isinstance(candidate, str) and any(form in candidate for form in forms)
    return candidate == number
