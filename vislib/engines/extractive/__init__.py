"""The embedded engine, which needs no model: captions and questions from what a page says and a picture measures.

An honest baseline for the models of VisCon-100K (sections 3.2, 3.3), and named as such in every record: nothing is
understood, everything is quoted or measured. No token is billed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from vislib import priors
from vislib.engines import Answer, Answered, Request
from vislib.engines.extractive.captions import write_caption
from vislib.engines.extractive.clauses import Fact
from vislib.engines.extractive.evidence import Evidence, gather
from vislib.engines.extractive.picture import Picture, measure
from vislib.engines.extractive.pool import Pool
from vislib.engines.extractive.questions import candidates, types
from vislib.pixels import ImageError, read_image
from vislib.qa_format import Round, render_free_form, render_multiple_choice
from vislib.runs.seeding import seeded, short_hash

ROUNDS = 4  # of each question type; one more where the evidence is rich
SHARE = 0.05  # of the samples may be asked the same question
_RICH = 14  # facts
Unit = tuple[str, str]  # sample_id, kind
Choice = tuple[str, int, int]  # question type, number of the fact, number of its wording


# Taken when the code and the word lists are loaded: a later edit of a file is another model only once it is loaded.
_FILES = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".toml"))
_FILES.append(Path(priors.__file__))
_MODEL = f"extractive-{short_hash(*(path.read_bytes() for path in _FILES))[:8]}"


class Extractive:
    """Answers from the evidence in the requests; the same set of requests gets the same answers in any order."""

    name = journal = "extractive"

    def __init__(self) -> None:
        self.model = _MODEL
        self.study(())

    def study(self, requests: Iterable[Request]) -> None:
        """Collect the values that lend wrong answers, and plan who asks what, so that no wording is worn out."""
        self._pool, self._set = Pool(), 0
        units: dict[Unit, list[tuple[list[int], tuple[str, ...]]]] = {}
        for request in requests:
            self._set = (self._set + int(_fingerprint(request), 16)) % 2**64
            if request.evidence["task"] != "caption" and _unit(request) not in units:
                facts, _ = _facts(request)
                self._pool.add(facts, str(request.evidence["sample"]["doc_id"]))
                units[_unit(request)] = [([int(short_hash(f), 16) for f in fact.forms], types(fact)) for fact in facts]
        self._plan = _planned(units)

    def basis(self, request: Request) -> Mapping[str, Any]:
        """The sample's evidence; for questions also the whole set, which lends wrong answers and shares wordings."""
        shared = 0 if request.evidence["task"] == "caption" else self._set
        return {"evidence": _fingerprint(request), "set": f"{shared:016x}"}

    def answer(self, requests: Iterable[Request], *, spent: float = 0.0) -> Answered:
        """Answer each request; one without any evidence fails with reason `no_evidence`."""
        for request in requests:
            task = request.evidence["task"]
            if task == "caption":
                text = write_caption(_evidence(request), _picture(request.evidence["image_path"]), _seed(request))
            else:
                render = render_free_form if task == "free_form" else render_multiple_choice
                text = render(self._rounds(request, task))
            status, reason = ("ok", "") if text else ("failed", "no_evidence")
            yield request, Answer(text=text, model=self.model, finish_reason="stop", status=status, reason=reason)

    def _rounds(self, request: Request, task: str) -> Iterator[Round]:
        """The planned rounds of one question type; one that too few wrong answers fit is left out."""
        facts, evidence = _facts(request)
        doc_id, seed = str(request.evidence["sample"]["doc_id"]), _seed(request)
        for _, number, form in (choice for choice in self._plan[_unit(request)] if choice[0] == task):
            fact, question = facts[number], facts[number].forms[form]
            if task == "free_form":
                yield Round(question, (), fact.reply)
            elif len(wrong := fact.wrong or self._pool.draw(fact, evidence, doc_id, seed)) == 3:
                place = seeded(seed, question) % 4
                options = [*wrong[:place], fact.answer, *wrong[place:]]
                yield Round(question, tuple(option.replace('"', "’") for option in options), "ABCD"[place])


@lru_cache(maxsize=4096)
def _picture(path: str) -> Picture | None:
    """Measured facts of an image, once per run; None for one that cannot be read."""
    try:
        return measure(read_image(path))
    except (ImageError, OSError):
        return None


def _facts(request: Request) -> tuple[list[Fact], Evidence]:
    evidence = _evidence(request)
    return candidates(evidence, _picture(request.evidence["image_path"]), _seed(request)), evidence


def _unit(request: Request) -> Unit:
    return request.id, str(request.evidence["kind"])


def _seed(request: Request) -> int:
    return seeded(request.seed, *_unit(request))


def _evidence(request: Request) -> Evidence:
    given = request.evidence
    return gather(given["sample"], given["priors"], kind=given["kind"])


def _fingerprint(request: Request) -> str:
    """Hash of all that an answer is made of; the image by its file's name, which names its content."""
    given = sorted((name, value) for name, value in request.evidence.items() if name not in ("image_path", "caption"))
    return short_hash(request.id, str(request.seed), PurePath(str(request.evidence["image_path"])).name, repr(given))


def _planned(units: Mapping[Unit, list[tuple[list[int], tuple[str, ...]]]]) -> dict[Unit, list[Choice]]:
    """Who asks what: question types filled in turn, no wording above its share of the samples.

    Units are served in the order of a hash, so that the plan does not depend on the order of the requests.
    """
    allowed = max(1, int(SHARE * len({sample for sample, _ in units})))
    used: Counter[int] = Counter()
    plan: dict[Unit, list[Choice]] = {unit: [] for unit in units}
    for unit in sorted(units, key=lambda unit: short_hash(*unit)):
        limit, filled = ROUNDS + (len(units[unit]) >= _RICH), Counter[str]()
        alone = Counter(names[0] for _, names in units[unit] if len(names) == 1)  # what only one type can ask, to come
        for number, (forms, names) in enumerate(units[unit]):
            alone.subtract(names if len(names) == 1 else ())
            form = next((i for i, text in enumerate(forms) if used[text] < allowed), None)
            able = [name for name in names if filled[name] < limit]
            if able and form is not None:
                name = min(able, key=lambda n: (filled[n] + alone[n], filled[n]))
                plan[unit].append((name, number, form))
                filled[name] += 1
                used[forms[form]] += 1
    return plan
