"""The benchmarks of both papers, one row each, and the items that their logged questions make up
(VisCon-100K, section 5.2).

A question of lmms-eval's log (0.7.3, `--log_samples`) is not always an item of the benchmark: of
MMBench it is one rotation of a question, of MME one of an image's two questions. Another benchmark
is a further row; a task without a row is read as one of letters or words that are right or wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from vislib.runs import InputError

Sample = Mapping[str, Any]  # one line of a log
_ROTATION = 1_000_000  # the index of a rotation is its question's plus a multiple of this


@dataclass(frozen=True)
class Benchmark:
    """How a task of lmms-eval is read."""

    name: str  # in our tables
    task: str = ""  # of the harness, where it has another name
    metric: str = "exact_match"  # the harness's headline, and its record in each sample
    scale: float = 1.0  # what the headline is where all is right
    reads: str = "letter"  # what we read replies for beside the harness: letter, yes_no or text
    graded: bool = False  # points, not right or wrong
    judged: bool = False  # by a model that is paid
    total: str = "mean"  # of items; or sum of `categories`' means, or `ratio` to the reference
    item: str = ""  # field of the record that samples of one item share, "" where each is one
    kind: str = ""  # field of the record that names the type of question
    note: str = ""


CONTEXTUAL = "vislib_contextual"  # our own benchmark
SEED_PARTS = ("image", "video")  # which of them VisCon-100K means is not known
_MME = Benchmark(
    "mme",
    metric="mme_perception_score",
    reads="yes_no",
    graded=True,
    total="categories",
    item="question_id",
    kind="category",
    note="the score that papers give",
)
BENCHMARKS = (
    Benchmark("seedbench", metric="seed_all", note="VisCon-100K does not name its variant"),
    Benchmark(
        "mmbench_en_dev_static",
        metric="gpt_eval_score",
        scale=100,
        item="index",
        kind="L2-category",
        note="read without a judge; VisCon-100K does not name its split",
    ),
    Benchmark("mmmu_val", metric="mmmu_acc", kind="question_type"),
    Benchmark("ai2d"),
    Benchmark("scienceqa_img"),
    Benchmark(
        "llava_in_the_wild",
        metric="gpt_eval_llava_all",
        scale=100,
        reads="text",
        graded=True,
        judged=True,
        total="ratio",
        kind="category",
        note="VisCon-100K's judge is LLaMA3-8b; another judge gives other levels",
    ),
    Benchmark("vqav2_val", reads="text", graded=True, note="DenseFusion-1M has test-dev"),
    Benchmark("gqa", reads="text"),
    Benchmark("textvqa_val", reads="text", graded=True),
    _MME,
    replace(_MME, name="mme_cognition", task="mme", metric="mme_cognition_score", note=""),
    Benchmark("pope", metric="pope_accuracy", reads="yes_no", note="its paper's headline is F1"),
    Benchmark(
        "mmvet",
        metric="gpt_eval_score",
        scale=100,
        reads="text",
        graded=True,
        judged=True,
        kind="capabilities",
    ),
    Benchmark(CONTEXTUAL, note="ours: held-out questions about images on web pages"),
)
# A judge's verdicts are not in the log of these; the task to take instead.
UNLOGGED = {"mmbench_en_dev": "mmbench_en_dev_static"}
JUDGED = frozenset(benchmark.name for benchmark in BENCHMARKS if benchmark.judged)


def of_task(task: str) -> list[Benchmark]:
    """The rows of a task; a plain one where it has none."""
    return [b for b in BENCHMARKS if task == (b.task or b.name)] or [Benchmark(task)]


@dataclass
class Item:
    """One item of a benchmark: its samples, and whether generation failed for one of them."""

    benchmark: Benchmark
    id: str
    samples: list[Sample] = field(default_factory=list)
    failed: bool = False
    score: float = 0.0  # the harness's own

    @property
    def records(self) -> list[Any]:
        """What the harness's own aggregation takes: one record per sample."""
        return [sample[self.benchmark.metric] for sample in self.samples]

    @property
    def kind(self) -> str:
        """The type of question that the record names, "" where it names none."""
        sample = self.samples[0]
        named = self.benchmark.kind
        if self.benchmark.name == "seedbench":  # by a further metric of its own
            return next((part for part in SEED_PARTS if f"seed_{part}" in sample), "other")
        kind = str(self.records[0].get(named) or "") if named else ""
        return kind.removeprefix("llava_bench_").replace("-", "_")

    @property
    def fault(self) -> tuple[str, str] | None:
        """Reason and detail, where there is no verdict on it."""
        n = len(self.samples)
        shared = self.benchmark.item
        record = self.records[0]
        if self.failed:
            return "generation_failed", "an empty answer of no tokens; see log.txt"
        if shared == "index" and self.id not in [str(one["index"]) for one in self.records]:
            return "unpaired", f"{n} rotations, but not the question itself"
        if shared == "question_id" and n != 2:  # MME scores an image's pair
            return "unpaired", f"{n} questions of the image were asked, not 2"
        # A judge that gave no two numbers, or did not answer, is logged as -1.
        if self.benchmark.total == "ratio" and min(record["scores"]) < 0:
            return "no_judgement", str(record["review"])[:200]
        if self.benchmark.judged and record["eval_model"] == "":
            return "no_judgement", "the judge gave no score"
        return None


def items(task: str, log: Sequence[Sample]) -> list[Item]:
    """The items of a task's log, in order. Raises InputError where generation failed for all, and
    for a log of another form.
    """
    # The harness logs an empty answer where generation failed. Where it counts tokens, such a one
    # has no count; an empty answer with a count is the model's own.
    silent = [not logged_reply(sample) and not _counted(sample) for sample in log]
    if log and all(silent):
        raise InputError(
            f"tasks: {task} has {len(log)} answers without any text; see what failed in log.txt"
        )
    counts = any(map(_counted, log))
    rows = of_task(task)
    found: dict[str, Item] = {}
    for sample, failed in zip(log, silent, strict=True):
        benchmark = next((row for row in rows if row.metric in sample), None)
        if benchmark is None:
            raise InputError(
                f"tasks: {task} logs {sorted(sample)}, but no {rows[0].metric}; leave it out of"
                " tasks, or give it a row in vislib/evaluation/benchmarks.py"
            )
        shared = benchmark.item
        name = str(sample[benchmark.metric][shared] if shared else sample["doc_id"])
        if shared == "index":
            name = str(int(name) % _ROTATION)
        item = found.setdefault(f"{benchmark.name}/{name}", Item(benchmark, name))
        item.samples.append(sample)
        item.failed |= failed and counts
    return list(found.values())


def logged_reply(sample: Sample) -> str:
    """What the model said; `filtered_resps` alone where no filter changed it."""
    said = sample.get("resps", sample["filtered_resps"])
    while isinstance(said, list):
        said = said[0] if said else ""
    return str(said).strip()


def _counted(sample: Sample) -> bool:
    return any(sample.get("token_counts", ()))


def weight(item: Item, judged: Sequence[Item]) -> float:
    """What an item's score is multiplied by, such that the mean over a benchmark's items is the
    harness's headline, of 1 where all is right (MME: its points). `judged`: items with a verdict.
    """
    if item.benchmark.total == "mean":
        return 1 / item.benchmark.scale
    own = [other for other in judged if other.benchmark == item.benchmark]
    if item.benchmark.total == "categories":
        # A sum of categories' means: an item of a small category weighs more.
        return len(own) / sum(other.kind == item.kind for other in own)
    return 1 / fmean(other.records[0]["scores"][0] for other in own)
