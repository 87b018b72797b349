"""From the logs of lmms-eval (0.7.3, `--log_samples`) to the contract's `results`, one row per item
of the benchmark.

An item of the log is not always one of the benchmark: of MMBench it is one rotation of a question,
of MME one of an image's two questions. The verdict (`correct` or `points`) is the harness's own,
such that the mean over items is the score that the harness reports. Our readings of letters, yes
and no stand beside it (`lenient`, `strictly_correct`): the harness takes the first character
(SEED), or guesses where it finds no letter (MMMU). The options come from the prompt, which is all
that a log keeps of a question.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vislib.engines.thoughts import without_thoughts
from vislib.evaluation import mmbench
from vislib.evaluation.answers import answer_row, choice_row, yes_no_row
from vislib.evaluation.contextual_task import NAME
from vislib.evaluation.parsing import options_in
from vislib.letters import LETTERS
from vislib.runs import InputError, short_hash
from vislib.runs.tables import Row

JUDGED = ("llava_in_the_wild", "mmvet")  # tasks that need a judge
# A judge's verdicts are not in the log of these; the task to take instead.
UNLOGGED = {"mmbench_en_dev": "mmbench_en_dev_static"}
SEED_TYPES = ("image", "video")
_GRADED = (
    "vqav2",
    "textvqa",
)  # by people's answers, which are not logged: the target names their column
_MOST_OPTIONS = 5  # letters that are read where a prompt lists no options
_MME = {
    "mme_perception_score": "mme",
    "mme_cognition_score": "mme_cognition",
}  # papers give the first
_SHARES = ("exact_match", "seed_all", "mmmu_acc", "pope_accuracy")  # metrics of the harness
_PER_CENT = ("gpt_eval_score", "gpt_eval_llava_all")
Log = Sequence[Mapping[str, Any]]
Refused = dict[str, str]  # reason and detail, in the place of a row


def read_log(task: str, log: Log) -> Iterator[Row | Refused]:
    """Results without model, arm and seed of the `log` of one task; an item without a verdict gives
    its reason.

    The harness logs an empty answer where generation failed; where it counts tokens, such a one has
    no count. A sample may hold the id of its picture in `image_id`. Raises InputError where all
    failed, and for a form that is not known.
    """
    failed = {sample["doc_id"] for sample in log if not _logged(sample) and not _counted(sample)}
    if log and len(failed) == len(log):
        raise InputError(
            f"tasks: {task} has {len(log)} answers without any text; see what failed in log.txt"
        )
    failed = failed if any(map(_counted, log)) else set()
    if log and "index" in log[0].get("gpt_eval_score", {}):
        yield from _mmbench(task, log, failed)
        return
    for sample in log:
        if sample["doc_id"] in failed:
            yield _failure(task, str(sample["doc_id"]))
    log = [sample for sample in log if sample["doc_id"] not in failed]
    if any(key in sample for sample in log for key in _MME):
        yield from _mme(log)
    elif log and "gpt_eval_llava_all" in log[0]:
        yield from _llava_bench(task, log)
    else:
        graded = task.startswith(_GRADED) or any(
            sample.get("exact_match", 0) not in (0, 1) for sample in log
        )
        for sample in log:
            yield {"benchmark": task, **_read(task, sample, graded=graded)}


def _said(sample: Mapping[str, Any]) -> str:
    """The model's answer, without what it thought before."""
    return without_thoughts(_logged(sample))[0].strip()


def _logged(sample: Mapping[str, Any]) -> str:
    """What the model said; `filtered_resps` alone where no filter changed it."""
    said = sample.get("resps", sample["filtered_resps"])
    while isinstance(said, list):
        said = said[0] if said else ""
    return str(said).strip()


def _counted(sample: Mapping[str, Any]) -> bool:
    return any(sample.get("token_counts", ()))


def _failure(task: str, name: str) -> Refused:
    detail = "an empty answer of no tokens; see log.txt"
    return {"benchmark": task, "sample_id": name, "reason": "generation_failed", "detail": detail}


def _read(task: str, sample: Mapping[str, Any], *, graded: bool) -> Row | Refused:
    name, said, target = str(sample["doc_id"]), _said(sample), str(sample["target"]).strip()
    options = options_in(sample["input"])
    more: dict[str, Any] = {"cluster": str(sample.get("image_id", ""))}
    if NAME in sample:
        return choice_row(
            sample[NAME]["sample_id"],
            said,
            target,
            options,
            question_type="multiple_choice",
            **more,
        )
    if "pope_accuracy" in sample:
        return yes_no_row(
            name, said, target, correct=bool(sample["pope_accuracy"]["score"]), **more
        )
    if "score" in (judged := sample.get("gpt_eval_score", {})):
        if not judged["eval_model"]:
            return {
                "sample_id": name,
                "reason": "no_judgement",
                "detail": f"{task}: the judge gave no score",
            }
        more["question_type"] = judged["capabilities"]
        return answer_row(name, said, target, points=float(judged["score"]), **more)
    if graded:
        return answer_row(name, said, "", points=float(sample["exact_match"]), **more)
    right, kind = _verdict(task, sample)
    if kind not in ("", "open") and len(target) == 1 and target in LETTERS:
        options = options or [""] * _MOST_OPTIONS
        return choice_row(name, said, target, options, correct=right, question_type=kind, **more)
    return answer_row(
        name, said, target, correct=right, strictly_correct=right, question_type=kind, **more
    )


def _verdict(task: str, sample: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the harness counts the sample as right, and the type of its question, "" where text
    is compared.
    """
    if record := sample.get("seed_all"):
        kind = next((kind for kind in SEED_TYPES if f"seed_{kind}" in sample), "other")
        return record["pred"].strip().lower() == record["answer"].strip().lower(), kind
    if record := sample.get("mmmu_acc"):
        answers = record["answer"] if isinstance(record["answer"], list) else [record["answer"]]
        if record["question_type"] == "multiple-choice":
            return any(letter in answers for letter in record["parsed_pred"]), "multiple_choice"
        return any(
            _agrees(c, str(a)) for found in record["parsed_pred"] for c in found for a in answers
        ), "open"
    if isinstance(sample.get("exact_match"), int | float):
        return bool(sample["exact_match"]), "multiple_choice" if options_in(sample["input"]) else ""
    raise InputError(
        f"tasks: {task} logs {sorted(sample)}, which no reader here knows; leave it out of tasks"
    )


def _agrees(candidate: str | float, answer: str) -> bool:
    """MMMU's rule for open questions: a candidate of the answer that holds the right text, or is
    the right number.
    """
    try:
        number = round(float(answer.strip().replace(",", "")), 2)
    except ValueError:
        wanted = answer.strip().lower()
        forms = (
            [f" {wanted}", f"{wanted} "] if len(wanted) == 1 else [wanted]
        )  # else "a" stands in every word
        return isinstance(candidate, str) and any(form in candidate for form in forms)
    return candidate == number


def reported(task: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """The scores that the harness itself reports of a task's benchmarks (`results` of its file), in
    units of ours.
    """
    plain = {
        name.partition(",")[0]: value
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }
    found = {_MME[name]: value for name, value in plain.items() if name in _MME}
    for name in (*_SHARES, *_PER_CENT):
        if name in plain:
            found[task] = plain[name] / (100 if name in _PER_CENT else 1)
    return found


def _mmbench(task: str, log: Log, failed: set[Any]) -> Iterator[Row | Refused]:
    """One row per question: right if all of its rotations are, which is how MMBench counts."""
    questions: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for sample in log:
        questions[int(sample["gpt_eval_score"]["index"]) % mmbench.ROTATION].append(sample)
    for index, samples in questions.items():
        name, records = str(index), [sample["gpt_eval_score"] for sample in samples]
        if any(sample["doc_id"] in failed for sample in samples):
            yield _failure(task, name)
            continue
        if not any(int(record["index"]) == index for record in records):
            detail = f"{len(records)} rotations, but not the question itself"
            yield {"benchmark": task, "sample_id": name, "reason": "unpaired", "detail": detail}
            continue
        read = [
            choice_row(
                name,
                _said(s),
                str(s["target"]).strip(),
                options_in(s["input"]) or [""] * _MOST_OPTIONS,
            )
            for s in samples
        ]
        row = {**read[0], "benchmark": task, "correct": mmbench.is_right(records)}
        row |= {name: all(own[name] for own in read) for name in ("parsed", "strictly_correct")}
        row |= {name: " / ".join(own[name] for own in read) for name in ("prediction", "answer")}
        row |= {
            "lenient": min(own["lenient"] for own in read),
            "words": max(own["words"] for own in read),
        }
        row["question_type"] = str(records[0].get("L2-category") or "")
        row["cluster"] = str(samples[0].get("image_id", ""))
        yield row


def _llava_bench(task: str, log: Log) -> Iterator[Row | Refused]:
    """Points: the judge's, over its mean for the reference answers: their mean is the benchmark's
    own score.

    Questions about one picture hold its description, which names the picture where nothing else
    does.
    """
    reviews = [(sample, sample["gpt_eval_llava_all"]) for sample in log]
    judged = [review["scores"] for _, review in reviews if min(review["scores"]) >= 0]
    for sample, review in reviews:
        name = {"benchmark": task, "sample_id": str(sample["doc_id"])}
        if min(review["scores"]) < 0:  # -1 where a judge gave no two numbers or did not answer
            yield {**name, "reason": "no_judgement", "detail": str(review["review"])[:200]}
            continue
        points = review["scores"][1] * len(judged) / sum(first for first, _ in judged)
        kind, image = review["category"].removeprefix("llava_bench_"), sample.get("image_id")
        more = {
            "question_type": kind,
            "cluster": str(image or short_hash(str(review.get("context", "")))),
        }
        yield name | answer_row(
            name["sample_id"], _said(sample), str(sample["target"]), points=points, **more
        )


def _mme(log: Log) -> Iterator[Row | Refused]:
    """One row per image, which has two questions. Points so that their mean is MME's score, a sum
    over categories of the mean of 100 x (share of right answers + 1 if both are right).
    """
    found: dict[tuple[str, str, str], list[tuple[Mapping[str, Any], bool]]] = defaultdict(list)
    for sample in log:
        (key,) = (key for key in _MME if key in sample)
        record = sample[key]
        found[_MME[key], record["category"], record["question_id"]].append(
            (sample, bool(record["score"]))
        )
    pairs = {name: pair for name, pair in found.items() if len(pair) == 2}
    for (benchmark, category, image), pair in found.items():
        name = {"benchmark": benchmark, "sample_id": image}
        if len(pair) != 2:
            yield {
                **name,
                "reason": "unpaired",
                "detail": f"{len(pair)} questions of the image were asked, not 2",
            }
            continue
        images = sum(other == benchmark for other, _, _ in pairs)
        weight = 100 * images / sum((benchmark, category) == names[:2] for names in pairs)
        said, target = (
            " / ".join(texts)
            for texts in zip(*((_said(s), str(s["target"])) for s, _ in pair), strict=True)
        )
        read = [
            yes_no_row("", _said(sample), str(sample["target"]), correct=right)
            for sample, right in pair
        ]
        points, lenient = (
            weight * (sum(values) / 2 + all(values))
            for values in ([row["correct"] for row in read], [row["lenient"] for row in read])
        )
        more = {"parsed": all(row["parsed"] for row in read), "question_type": category}
        more |= {"lenient": lenient, "cluster": str(pair[0][0].get("image_id", ""))}
        yield {**answer_row(image, said, target, points=points, **more), **name}
