"""What images are billed: published examples, the models' own processors, and the size that is
worth sending.
"""

import random
from types import SimpleNamespace

import pytest
from PIL import Image

from vislib.engines.billing import _families, caching_of, rule_of, rules, scaled_size, send_side
from vislib.media.pixels import scaled
from vislib.runs.errors import InputError

RANDOM = random.Random(7)
SIZES = [(RANDOM.randint(1, 5000), RANDOM.randint(1, 5000)) for _ in range(300)] + [
    (1, 1),
    (5000, 3),
    (64, 64),
]


@pytest.mark.parametrize(
    ("rule", "size", "tokens"),
    [
        (
            "gpt-6",
            (1024, 1024),
            1229,
        ),  # the examples of the providers' pages, and what users were billed
        ("gpt-6", (4096, 512), 2458),
        ("gpt-5.4", (2048, 2048), 3000),
        ("gpt-4o", (1024, 1024), 765),
        ("gpt-4o", (2048, 4096), 1105),
        ("gpt-4o", (128, 64), 255),
        ("gpt-4o-mini", (128, 64), 8500),
        ("gpt-5", (1024, 1024), 630),
        ("gpt-4.1-mini", (1024, 1024), 1659),
        ("claude-4", (1000, 1000), 36 * 36),
        ("claude-4", (1920, 1080), 52 * 30),
        ("gemini", (960, 540), 1120),
        ("llava-1.5", (1024, 768), 576),
    ],
)
def test_rules_bill_what_their_pages_say(rule, size, tokens):
    assert rules()[rule].tokens(*size) == tokens


def test_a_picture_is_looked_at_as_the_providers_pages_say():
    claude = rules()["claude-4"]
    assert scaled_size(1920, 1080, claude.seen(1920, 1080)) == (1456, 819)
    assert scaled_size(1075, 1520, claude.seen(1075, 1520)) == (924, 1307)
    assert scaled_size(2048, 4096, rules()["gpt-4o"].seen(2048, 4096)) == (768, 1536)


@pytest.mark.parametrize(
    ("name", "cell", "least"), [("qwen2-vl", 28, 3136), ("qwen3-vl", 32, 65536)]
)
def test_qwen_is_counted_as_its_own_processor_counts(name, cell, least):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    for width, height in SIZES:
        if max(width, height) > 200 * min(width, height):
            continue
        rows, columns = smart_resize(
            height, width, factor=cell, min_pixels=least, max_pixels=16384 * cell**2
        )
        ours, theirs = rules()[name].tokens(width, height), rows * columns // cell**2
        assert ours == theirs or (theirs > 16000 and ours == pytest.approx(theirs, rel=0.02)), (
            width,
            height,
        )


def test_pixtral_is_counted_as_mistrals_encoder_counts():
    from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, SpecialImageIDs

    ids = SpecialImageIDs(img=10, img_break=12, img_end=13)
    for name, settings in (("pixtral", (16, 1024, 1)), ("mistral-small-3", (14, 1540, 2))):
        encoder = ImageEncoder(ImageConfig(*settings), ids)
        for width, height in SIZES[:60]:
            columns, rows = encoder._image_to_num_tokens(Image.new("1", (width, height)))
            assert rules()[name].tokens(width, height) == pytest.approx(
                (columns + 1) * rows, rel=0.03, abs=66
            )


def test_sizes_are_those_that_are_sent():
    for width, height in [*SIZES[:60], (1000, 999), (999, 1000)]:
        for side in (1, 100, 768, 1024):
            assert (
                scaled_size(width, height, side)
                == scaled(Image.new("1", (width, height)), side).size
            )


@pytest.mark.parametrize("rule", rules().values(), ids=rules())
def test_the_side_sent_is_worth_sending(rule):
    for width, height in SIZES:
        for side, bound in ((768, 0), (0, 0), (1024, 9000), (300, 0)):
            sent = send_side(width, height, side=side, tokens=bound, rule=rule)
            longest = min(side or max(width, height), max(width, height))
            assert sent == side or 0 < sent < longest
            tokens = rule.tokens(*scaled_size(width, height, sent))
            if bound:
                assert tokens <= bound
            else:
                seen = rule.seen(*scaled_size(width, height, longest))
                small = min(sent or longest, longest)
                assert small == min(seen, longest)
                assert tokens <= rule.tokens(*scaled_size(width, height, longest))


def test_a_bound_is_held_or_refused():
    rule = rules()["gpt-6"]
    side = send_side(4000, 3000, side=0, tokens=500, rule=rule)
    assert (
        rule.tokens(*scaled_size(4000, 3000, side))
        <= 500
        < rule.tokens(*scaled_size(4000, 3000, side + 40))
    )
    with pytest.raises(
        InputError, match=r"image_tokens is 100, but llava-1\.5 bills no image less than 576"
    ):
        send_side(640, 480, side=0, tokens=100, rule=rules()["llava-1.5"])


def test_without_a_rule_nothing_is_assumed():
    for side in (0, 768):
        assert send_side(4000, 3000, side=side, tokens=0, rule=None) == side
        assert send_side(200, 100, side=side, tokens=0, rule=rules()["gpt-6"]) == side
    assert rule_of(SimpleNamespace(model="scripted-vlm", image_billing="auto")) is None
    assert rule_of(SimpleNamespace(model="gpt-6-sol", image_billing="none")) is None
    assert rule_of(SimpleNamespace(model="gpt-6-sol")) is None
    with pytest.raises(InputError, match=r"'gtp-6'; take auto, none, or one of gpt-6, .*idefics2"):
        rule_of(SimpleNamespace(model="m", image_billing="gtp-6"))


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ("gpt-6-sol", "gpt-6"),
        ("openai/gpt-6.1-sol", "gpt-6"),
        ("gpt-5.6-luna", "gpt-6"),
        ("gpt-4.1-nano-2025-04-14", "gpt-4.1-nano"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-5-mini", "gpt-5-mini"),
        ("gpt-5", "gpt-5"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("gpt-5.1", "gpt-5"),
        ("claude-haiku-4-5", "claude-4"),
        ("gpt-4.1", "gpt-4o"),
        ("o3-mini", None),
        ("claude-opus-4-20250514", "claude-4"),
        ("anthropic/claude-sonnet-4.6", "claude-4"),
        ("claude-opus-4-7", "claude"),
        ("claude-sonnet-5", "claude"),
        ("gemini-2.5-flash", None),
        ("gemini-3.8-flash", "gemini"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2-vl"),
        ("/models/Qwen3-VL-8B-Instruct/", "qwen3-vl"),
        ("HuggingFaceM4/idefics2-8b", "idefics2"),
    ],
)
def test_the_rule_is_found_by_the_models_name(model, rule):
    found = rule_of(SimpleNamespace(model=model, image_billing="auto"))
    assert (found.name if found else None) == rule
    assert not rule or rule_of(SimpleNamespace(model="any", image_billing=rule)) is found


def test_every_family_names_its_source():
    sources = _families("sources")
    assert len(rules()) > 20
    assert {rule.source for rule in rules().values()} < set(sources)
    assert {caching_of(model)["source"] for model in ("gpt-6-sol", "gpt-4o", "qwen3-vl-8b")} < set(
        sources
    )
    assert caching_of("unheard-of") == {}
