"""The benchmarks of both papers, one row each, and the items that their logged questions make up
(VisCon-100K, section 5.2).

A question of lmms-eval's log (0.7.3, `--log_samples`) is not always an item of the benchmark: of
MMBench it is one rotation of a question, of MME one of an image's two questions. Another benchmark
is a further row; a task without a row is read as one of letters or words that are right or wrong.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from vislib.runs import InputError

Sample = Mapping[str, Any]  # one line of a log
_ROTATION = 1_000_000  # the index of a rotation is its question's plus a multiple of this


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """How a task of lmms-eval is read. `name` is its name in tables, for one of two of a task."""

    task: str
    name: str = ""
    metric: str = "exact_match"  # the harness's headline, and its record in each sample
    scale: float = 1.0  # what the headline is where all is right
    reads: str = "letter"  # what we read answers for beside the harness: letter, yes_no or text
    graded: bool = False  # points, not right or wrong
    judged: bool = False  # by a model that is paid
    total: str = "mean"  # of items; or sum of `categories`' means, or `ratio` to the reference
    item: str = ""  # field of the record that samples of one item share, "" where each is one
    kind: str = ""  # field of the record that names the type of question
    note: str = ""

    @property
    def title(self) -> str:
        """Its name in our tables."""
        return self.name or self.task


CONTEXTUAL = "vislib_contextual"  # our own benchmark
BENCHMARKS = (
    Benchmark(task="seedbench", metric="seed_all", note="VisCon-100K does not name its variant"),
    Benchmark(
        task="mmbench_en_dev_static",
        metric="gpt_eval_score",
        scale=100,
        item="index",
        kind="L2-category",
        note="read without a judge; VisCon-100K does not name its split",
    ),
    Benchmark(task="mmmu_val", metric="mmmu_acc", kind="question_type"),
    Benchmark(task="ai2d"),
    Benchmark(task="scienceqa_img"),
    Benchmark(
        task="llava_in_the_wild",
        metric="gpt_eval_llava_all",
        scale=100,
        reads="text",
        graded=True,
        judged=True,
        total="ratio",
        kind="category",
        note="VisCon-100K's judge is LLaMA3-8b; another judge gives other levels",
    ),
    Benchmark(task="vqav2_val", reads="text", graded=True, note="DenseFusion-1M has test-dev"),
    Benchmark(task="gqa", reads="text"),
    Benchmark(task="textvqa_val", reads="text", graded=True),
    Benchmark(
        task="mme",
        metric="mme_perception_score",
        reads="yes_no",
        graded=True,
        total="categories",
        item="question_id",
        kind="category",
        note="the score of papers",
    ),
    Benchmark(
        task="mme",
        name="mme_cognition",
        metric="mme_cognition_score",
        reads="yes_no",
        graded=True,
        total="categories",
        item="question_id",
        kind="category",
    ),
    Benchmark(
        task="pope",
        metric="pope_accuracy",
        reads="yes_no",
        note="DenseFusion-1M does not name its metric",
    ),
    Benchmark(
        task="mmvet",
        metric="gpt_eval_score",
        scale=100,
        reads="text",
        graded=True,
        judged=True,
        kind="capabilities",
    ),
    Benchmark(task=CONTEXTUAL, note="ours: held-out questions about images on web pages"),
)
# A judge's verdicts are not in the log of these; the task to take instead.
UNLOGGED = {"mmbench_en_dev": "mmbench_en_dev_static"}
JUDGED = frozenset(benchmark.task for benchmark in BENCHMARKS if benchmark.judged)


@dataclass(frozen=True)
class Item:
    """One item of a benchmark: its samples, or why it has no verdict (`reason`, `detail`)."""

    benchmark: Benchmark
    id: str
    samples: Sequence[Sample]
    reason: str = ""
    detail: str = ""

    @property
    def records(self) -> list[Any]:
        """What the harness's own aggregation takes: one record per sample."""
        return [sample[self.benchmark.metric] for sample in self.samples]

    @property
    def kind(self) -> str:
        """The type of question that the record names, "" where it names none."""
        record, field = self.records[0], self.benchmark.kind
        found = str(record.get(field) or "") if field else ""
        if self.benchmark.task == "seedbench":  # by a further metric of its own
            parts = [part for part in ("image", "video") if f"seed_{part}" in self.samples[0]]
            found = (parts or ["other"])[0]
        return found.removeprefix("llava_bench_").replace("multiple-choice", "multiple_choice")


def of_task(task: str) -> list[Benchmark]:
    """The rows of a task; a plain one where it has none."""
    found = [benchmark for benchmark in BENCHMARKS if benchmark.task == task]
    return found or [Benchmark(task=task)]


def items(task: str, log: Sequence[Sample]) -> list[Item]:
    """The items of a task's log, in order.

    The harness logs an empty answer where generation failed; where it counts tokens, such a one has
    no count. Raises InputError where all failed, and for a log of another form.
    """
    failed = [not logged_reply(sample) and not _counted(sample) for sample in log]
    if log and all(failed):
        raise InputError(
            f"tasks: {task} has {len(log)} answers without any text; see what failed in log.txt"
        )
    known = any(map(_counted, log))
    lost = {sample["doc_id"] for sample, bad in zip(log, failed, strict=True) if bad and known}
    found: dict[tuple[Benchmark, str], list[Sample]] = {}
    for sample in log:
        benchmark = next((b for b in of_task(task) if b.metric in sample), None)
        if benchmark is None:
            raise InputError(
                f"tasks: {task} logs {sorted(sample)}, but no {of_task(task)[0].metric}; leave it"
                " out of tasks, or give it a row in vislib/evaluation/benchmarks.py"
            )
        found.setdefault((benchmark, _item_id(benchmark, sample)), []).append(sample)
    return [_item(*key, samples, lost) for key, samples in found.items()]


def logged_reply(sample: Sample) -> str:
    """What the model said; `filtered_resps` alone where no filter changed it."""
    said = sample.get("resps", sample["filtered_resps"])
    while isinstance(said, list):
        said = said[0] if said else ""
    return str(said).strip()


def _counted(sample: Sample) -> bool:
    return any(sample.get("token_counts", ()))


def _item_id(benchmark: Benchmark, sample: Sample) -> str:
    if not benchmark.item:
        return str(sample["doc_id"])
    shared = sample[benchmark.metric][benchmark.item]
    return str(int(shared) % _ROTATION) if benchmark.item == "index" else str(shared)


def _item(benchmark: Benchmark, name: str, samples: Sequence[Sample], lost: set[Any]) -> Item:
    found = Item(benchmark, name, samples)
    reason, detail = "", ""
    if any(sample["doc_id"] in lost for sample in samples):
        reason, detail = "generation_failed", "an empty answer of no tokens; see log.txt"
    elif benchmark.item == "index" and name not in [str(r["index"]) for r in found.records]:
        reason, detail = "unpaired", f"{len(samples)} rotations, but not the question itself"
    elif benchmark.item == "question_id" and len(samples) != 2:  # MME scores an image's pair
        reason, detail = "unpaired", f"{len(samples)} questions of the image were asked, not 2"
    elif benchmark.judged and (said := _no_judgement(found.records[0])):
        reason, detail = "no_judgement", said
    return Item(benchmark, name, samples, reason, detail)


def _no_judgement(record: Mapping[str, Any]) -> str:
    """What a judge said who gave no score, "" where there is one."""
    if "scores" in record:  # -1 where it gave no two numbers or did not answer
        return str(record["review"])[:200] if min(record["scores"]) < 0 else ""
    return "" if record["eval_model"] else "the judge gave no score"


def weights(found: Sequence[Item]) -> list[float]:
    """What each item's score is multiplied by, such that the mean over a benchmark's items is the
    harness's headline, of 1 where all is right (MME: its points). `found`: items with a verdict.
    """
    sizes = Counter(item.benchmark.title for item in found)
    kinds = Counter((item.benchmark.title, item.kind) for item in found)
    ratios = [item.records[0]["scores"] for item in found if item.benchmark.total == "ratio"]
    reference = fmean(score for score, _ in ratios) if ratios else 1.0
    weight = []
    for item in found:
        name = item.benchmark.title
        totals = {
            "mean": 1 / item.benchmark.scale,
            # A sum of categories' means: an item of a small category weighs more.
            "categories": sizes[name] / kinds[name, item.kind],
            "ratio": 1 / reference,
        }
        weight.append(totals[item.benchmark.total])
    return weight
