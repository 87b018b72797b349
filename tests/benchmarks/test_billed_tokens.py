"""Billed input tokens per caption and per Q&A request, ours against a naive one, under each
provider's published rules.

Ours: shared instructions, then the page, then the image at the size of `send_side`, cached up to
the end of the instructions. Naive: the page, then the instructions, and the image as the file is.
The images are the sample's, or those of the web documents that VISLIB_WEBDOCS names; texts are
counted by Mistral's tokenizer.
"""

import os
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest

from tests.sets import variation
from tests.work import requests
from vislib import captioning, prompts, qa_generation
from vislib.engines.billing import caching_of, rule_of, scaled_size, send_side
from vislib.media.tokenization import count_tokens, load_tokenizer
from vislib.runs import Run, tables
from vislib.runs.runner import main
from vislib.runs.sets import read_set

MODELS = (
    "gpt-6-sol",
    "gpt-5.4",
    "gpt-4o",
    "claude-haiku-4-5",
    "gemini-2.5-flash",
    "Qwen2.5-VL-7B",
    "llava-1.5-7b",
)
FRAME, SIDE = 10, 768  # tokens of a chat template; px, the sets' image_side


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Requests of 06 and 07 with the sizes of their images and the texts that all of their kind
    begin with.
    """
    folder, found = tmp_path_factory.mktemp("billed"), {}
    changes = {"03_images": {"min_side": 32}}
    if web := os.environ.get("VISLIB_WEBDOCS", ""):
        changes["01_documents"] = {"source": "parquet", "paths": [f"{web}/documents.parquet"]}
        changes["03_images"] |= {"images_root": f"{web}/images"}
    made = variation(folder / "set", only="01 02 03 06 07", **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISLIB_RUNS", str(folder))
        assert main([str(made)]) == 0
        runs = {entry.stage.notebook[:2]: Run(entry.stage, {}, []) for entry in read_set(made)}
        ledger = tables.read_rows(runs["06"].table("images"))
        sizes = {
            row["image_id"]: (row["width"], row["height"])
            for row in ledger
            if row["status"] == "ok"
        }
        for number, module in (("06", captioning), ("07", qa_generation)):
            plan = module.Plan.of(runs[number])
            shared = {
                template.sha: template.text.split("{{")[0] for template in plan.templates.values()
            }
            found[number] = [
                (r.prompt, shared[r.prompt_sha], sizes.get(r.image_id))
                for r in requests(runs[number])
            ]
    return found


def billed(requests, model, *, naive=False, marked=True):
    """Means per request: image, prompt, cached, and the input that costs as much at the full
    price.
    """
    rule, cache = rule_of(SimpleNamespace(model=model, image_billing="auto")), caching_of(model)
    tokenizer = load_tokenizer("mistral-common")
    texts = count_tokens(tokenizer, [text for text, _, _ in requests])
    heads = dict(
        zip(
            {head for _, head, _ in requests},
            count_tokens(tokenizer, [*{h for _, h, _ in requests}]),
            strict=True,
        )
    )
    rows = []
    for tokens, (_, head, size) in zip(texts, requests, strict=True):
        side = 0 if naive or not size else send_side(*size, side=SIDE, tokens=0, rule=rule)
        image = rule.tokens(*scaled_size(*size, side)) if size else 0
        first, prompt = heads[head], FRAME + tokens + image
        reused = (
            cache
            and not naive
            and first >= cache["least"]
            and (marked or not cache.get("marked_at"))
        )
        cached = first // cache["step"] * cache["step"] if reused else 0
        written = (
            prompt
            if cache.get("marked_at") and (naive or not marked) and prompt >= cache["least"]
            else 0
        )
        cost = (
            prompt
            - cached * (1 - cache["read"] if cache else 0)
            + written * (cache.get("write", 1) - 1)
        )
        rows.append((image, prompt, cached, cost))
    return [fmean(column) for column in zip(*rows, strict=True)]


@pytest.mark.campaign
def test_billed_tokens_per_caption_and_question(asked, capsys):
    lines = []
    for number, what in (("06", "caption"), ("07", "Q&A request")):
        requests, ratios = asked[number], {}
        lines.append(
            f"\n{what}: {len(requests)} requests; image, prompt, cached tokens and billed"
            " equivalent, naive -> ours"
        )
        for model in MODELS:
            if number == "07" and not caching_of(model):
                continue
            before, after = billed(requests, model, naive=True), billed(requests, model)
            ratios[model] = after[3] / before[3]
            figures = " | ".join(
                f"{a:6.0f} -> {b:6.0f}" for a, b in zip(before, after, strict=True)
            )
            lines.append(f"{model:18} {figures} | {ratios[model]:.2f}")
        assert max(ratios.values()) <= 1
        plain, ours = (billed(requests, "gpt-6-sol", marked=marked)[3] for marked in (False, True))
        lines.append(
            f"gpt-6-sol: with the provider's own breakpoint {plain:.0f}, with ours alone {ours:.0f}"
        )
    with capsys.disabled():
        print("\n".join(lines))


@pytest.mark.campaign
def test_the_order_of_requests_and_parts(asked, capsys):
    """vLLM's blocks of 16: instructions first, against the image first and its two kinds side by
    side.
    """
    rule, tokenizer = (
        rule_of(SimpleNamespace(model="qwen2-vl", image_billing="auto")),
        load_tokenizer("mistral-common"),
    )
    now = image_first = total = 0
    for text, head, size in asked["06"]:
        side = send_side(*size, side=SIDE, tokens=0, rule=rule)
        image = rule.tokens(*scaled_size(*size, side))
        now += count_tokens(tokenizer, [head])[0] // 16 * 16
        image_first += (
            image // 16 * 16 / 2
        )  # the second request of a pair finds the image of the first
        total += count_tokens(tokenizer, [text])[0] + image
    with capsys.disabled():
        print(
            f"\nvLLM, of {total} tokens cached: instructions first {now / total:.2f},"
            f" {image_first / total:.2f} else"
        )
    assert now > 0


def test_prompts_begin_with_what_all_requests_share():
    """Every template of ours ends with the sample's own text, behind instructions that no sample
    changes.
    """
    ours = [file.stem for file in Path(prompts.__file__).parent.glob("*.txt")]
    names = [
        name for name in ours if not name.startswith("captioner_")
    ]  # these are learnt, and nobody bills for them
    templates = [prompts.load(name) for name in names if prompts.load(name).fields]
    assert len(templates) >= 3
    for template in templates:
        assert template.text.index("{{") / len(template.text) > 0.9
