"""The data contract: the Arrow schema of every table that passes between stages.

Ids are the first 16 hex digits of a SHA-256. Coordinates are 0-1 of width and height.
"""

import json

import pyarrow as pa

_TEXT, _INT, _REAL = pa.string(), pa.int64(), pa.float64()


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


# Of every stage: what was set aside, by the id of its unit. Nothing is lost in silence.
DROPPED = _schema(id=_TEXT, reason=_TEXT, detail=_TEXT)

# What shall leave the data, by whatever names it; the id of a link is its address.
REMOVALS = _schema(unit=_TEXT, id=_TEXT, reason=_TEXT, note=_TEXT)

_OBELICS = {
    "images": pa.list_(_TEXT),
    "texts": pa.list_(_TEXT),
    "metadata": _TEXT,
    "general_metadata": _TEXT,
}
# One entry per block of the page, in order: an image or a text, the other list holding null.
DOCUMENTS = _schema(doc_id=_TEXT, **_OBELICS)
QUARANTINE = _schema(source=_TEXT, row=_INT, reason=_TEXT)
FILTERED = _schema(doc_id=_TEXT, **_OBELICS, n_tokens=_INT)
SAMPLES = _schema(
    sample_id=_TEXT,  # of doc_id and image_index
    doc_id=_TEXT,  # of the page's content
    image_index=_INT,  # its place in the page's lists
    image_url=_TEXT,
    alt_text=_TEXT,  # "" where the page has none
    page_url=_TEXT,
    context=_TEXT,  # the page, `<image>` where this one stands
    n_context_tokens=_INT,  # by 02's tokenizer
    width=_INT,  # px that the page states, 0: unknown
    height=_INT,
)
IMAGES = _schema(
    image_url=_TEXT,  # as the page writes it
    image_id=_TEXT,  # of the file's bytes; none where it failed
    status=_TEXT,  # ok or failed
    reason=_TEXT,  # why it failed
    path=_TEXT,  # below the stage's data folder
    width=_INT,  # px of the file
    height=_INT,
    format=_TEXT,  # as Pillow names it
    perceptual_hash=_TEXT,  # 64 bits in hex: near-duplicates are few bits apart
)
# What was said of the use of an image by machines; a link of which nothing was said has no row.
CONSENT = _schema(
    image_url=_TEXT,
    robots=_TEXT,  # agents that robots.txt shuts out, ours and gatherers of training data
    x_robots=_TEXT,  # X-Robots-Tag headers
    tdm=_TEXT,  # tdm-reservation: 1 is reserved
    usage=_TEXT,  # Content-Usage, as train-ai=n
    licence=_TEXT,  # address of the licence that the reply names
)
SELECTED = pa.schema([*SAMPLES, *_schema(image_id=_TEXT, cluster=_INT, rank=_INT, distance=_REAL)])
EMBEDDINGS = _schema(image_id=_TEXT, cluster=_INT, distance=_REAL, vector=pa.list_(pa.float32()))
# Each with the one that stays in its place.
DUPLICATES = _schema(image_id=_TEXT, kept_id=_TEXT, reason=_TEXT, distance=_REAL)
_BOX = [(name, pa.float32()) for name in ("x1", "y1", "x2", "y2")]
_SCORE, _EXPERT = ("score", pa.float32()), ("expert", _TEXT)
# One row per image: what its experts found, in their order.
PRIORS = _schema(
    image_id=_TEXT,
    tags=pa.list_(pa.struct([("label", _TEXT), _SCORE, _EXPERT])),
    boxes=pa.list_(pa.struct([("label", _TEXT), _SCORE, *_BOX, _EXPERT])),
    texts=pa.list_(pa.struct([("text", _TEXT), _SCORE, *_BOX, _EXPERT])),
)
EXPERTS = _schema(expert=_TEXT, model=_TEXT, revision=_TEXT)
CAPTIONS = _schema(
    sample_id=_TEXT,
    kind=_TEXT,  # what its writer read beside the image
    caption=_TEXT,  # also of a dropped one
    status=_TEXT,  # ok, failed (no answer) or dropped (by a check)
    reason=_TEXT,  # of failure or drop
    model=_TEXT,  # as the server names it
    prompt_sha=_TEXT,  # of the template
    request_sha=_TEXT,  # key of the answer in the journal
    tokens_in=_INT,  # of the whole request, as billed
    tokens_out=_INT,
)
QUESTIONS = _schema(
    question_id=_TEXT,  # of sample, kind, type, round and text
    sample_id=_TEXT,
    kind=_TEXT,  # of the caption that it is about
    question_type=_TEXT,  # free_form or multiple_choice
    round=_INT,  # its place in the answer, from 1
    question=_TEXT,
    options=pa.list_(_TEXT),  # four, without letters; none for free form
    answer=_TEXT,  # a text, or one of A to D
    status=_TEXT,  # ok or dropped
    reason=_TEXT,  # of the format or a check
    model=_TEXT,
    prompt_sha=_TEXT,
    request_sha=_TEXT,
)
REQUESTS = _schema(
    sample_id=_TEXT,
    kind=_TEXT,
    question_type=_TEXT,
    status=_TEXT,  # ok or failed; failed ones cost too
    reason=_TEXT,
    model=_TEXT,
    request_sha=_TEXT,
    tokens_in=_INT,
    tokens_out=_INT,
)
MODERATED = _schema(
    sample_id=_TEXT,
    unit=_TEXT,  # of a removal list: a caption's is its sample
    id=_TEXT,
    rule=_TEXT,  # nsfw, a list of words, a category of the endpoint, a kind of personal detail
    score=_REAL,  # 0 to 1
    text=_TEXT,  # around a word that was found
    verdict=_TEXT,  # removed, masked or kept
)
CONVERSATIONS = _schema(
    id=_TEXT,  # of the sample; -c and -q in `separate`
    images=pa.list_(_TEXT),  # image_id, one
    conversations=pa.list_(pa.struct([("from", _TEXT), ("value", _TEXT)])),  # LLaVA's turns
    sample_id=_TEXT,
    doc_id=_TEXT,
    sources=pa.list_(_TEXT),  # of each round: caption, free_form, multiple_choice
)
_SETTING = {"threshold": _REAL, "minimum": _INT}
_VARIETY = {
    "asked": _INT,  # questions before
    "kept": _INT,
    "nearest": _REAL,  # mean cosine of a question to the most similar other one of its sample
    "distinct_1": _REAL,  # different words over all words of a sample's questions
    "distinct_2": _REAL,  # and pairs of words
}
SWEPT = _schema(sample_id=_TEXT, kind=_TEXT, **_SETTING, **_VARIETY, free_form=_INT)
# Means over samples; balance: questions of the rarer type for one of the other.
SWEEP = _schema(**_SETTING, samples=_INT, **_VARIETY, balance=_REAL)
# A published row: a conversation, and who made what is in it.
LINKS_ONLY = _schema(
    id=_TEXT,
    conversations=CONVERSATIONS.field("conversations").type,
    sources=pa.list_(_TEXT),
    kind=_TEXT,
    configuration=_TEXT,
    image_id=_TEXT,
    image_url=_TEXT,
    sha256=_TEXT,  # 64 hex digits, of the image file
    width=_INT,
    height=_INT,
    format=_TEXT,
    alt_text=_TEXT,
    page_url=_TEXT,
    sample_id=_TEXT,
    doc_id=_TEXT,
    caption_model=_TEXT,
    caption_prompt_sha=_TEXT,
    caption_request_sha=_TEXT,
    question_models=pa.list_(_TEXT),  # of the row's questions; none where it has no question
    question_prompt_shas=pa.list_(_TEXT),
    question_request_shas=pa.list_(_TEXT),
)
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", _TEXT)])
# With this metadata `datasets` and the hub's viewer decode the column as pictures.
_FEATURES = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
WITH_IMAGES = pa.schema([("image", _IMAGE), *LINKS_ONLY], {"huggingface": _FEATURES})
HITS = _schema(
    unit=_TEXT,  # image or question
    source=_TEXT,  # data, or the name of a mix
    id=_TEXT,  # image_id or question_id, or a mix's
    benchmark=_TEXT,  # the name of its file, or of a mix that the data stand in
    item=_TEXT,  # as 12 calls it
    picture=_TEXT,  # of its pixels, as 12 has it in `cluster`; "" where it has none, or several
    method=_TEXT,
    score=_REAL,  # 1: the same
)
# Planted items of each change that a method finds at a threshold, and those it takes for others.
RECALL = _schema(
    method=_TEXT,
    change=_TEXT,
    threshold=_REAL,
    planted=_INT,
    found=_INT,
    wrong=_INT,
)
ANSWERABLE = _schema(
    question_id=_TEXT,
    sample_id=_TEXT,
    doc_id=_TEXT,  # questions of one page are not independent
    kind=_TEXT,
    question_type=_TEXT,
    judge=_TEXT,  # `text evidence`, or the model that was asked
    caption=pa.bool_(),  # it suffices alone; none: not asked, or no answer
    context=pa.bool_(),  # the page with its alternative text
    image=pa.bool_(),
    nothing=pa.bool_(),  # the question alone
    swapped=pa.bool_(),  # a caption of another page: chance
    verdict=_TEXT,  # caption, context, image, several or none of them
    after_caption=pa.bool_(),  # in its conversation; none: it is in none
    caption_evidence=_REAL,  # of the judge by text
    context_evidence=_REAL,
)
PAIRS = _schema(
    pair_id=_TEXT,
    sample_id=_TEXT,
    position=_INT,  # in the page, from 1
    shown_left=_TEXT,  # which of the two stands left, so that votes are blind
    left=_TEXT,
    right=_TEXT,
    left_model=_TEXT,
    right_model=_TEXT,
)
VOTES = _schema(pair_id=_TEXT, sample_id=_TEXT, choice=_TEXT, remark=_TEXT)
STEPS = _schema(
    step=_INT,
    epoch=_REAL,
    loss=_REAL,
    learning_rate=_REAL,
    gradient_norm=_REAL,
    tokens=_INT,
    supervised_tokens=_INT,
)
ARMS = _schema(
    model=_TEXT,
    arm=_TEXT,
    seed=_INT,
    base=_TEXT,
    method=_TEXT,
    conversations=_TEXT,
    samples=_INT,
    rows=_INT,
    own_rows=_INT,
    text_only_rows=_INT,
    rounds=_INT,
    tokens=_INT,
    image_tokens=_INT,
    supervised_tokens=_INT,
    steps=_INT,
)
ARM_SIZES = (
    "samples",
    "rounds",
    "supervised_tokens",
)  # arms whose data are compared should share these
PREDICTIONS = _schema(sample_id=_TEXT, doc_id=_TEXT, system=_TEXT, caption=_TEXT, reference=_TEXT)
CAPTION_SCORES = _schema(
    system=_TEXT, metric=_TEXT, score=_REAL, low=_REAL, high=_REAL, n=_INT, signature=_TEXT
)
_CELL = {"model": _TEXT, "arm": _TEXT}
RESULTS = _schema(
    **_CELL,
    seed=_INT,
    benchmark=_TEXT,
    sample_id=_TEXT,
    question_type=_TEXT,
    prediction=_TEXT,
    answer=_TEXT,
    correct=pa.bool_(),
    parsed=pa.bool_(),
    strictly_correct=pa.bool_(),
    words=_INT,
    points=_REAL,
    # `correct` or `points` by our own lenient reading, where letters, yes or no are read
    lenient=_REAL,
    # of questions that are not independent: their page or image; "" where it is not known
    cluster=_TEXT,
)
BENCHMARK_SCORES = _schema(
    **_CELL,
    benchmark=_TEXT,
    n=_INT,
    seeds=_INT,
    accuracy=_REAL,
    low=_REAL,
    high=_REAL,
    seed_deviation=_REAL,
    strict_accuracy=_REAL,
    unparsed=_REAL,
    lenient_accuracy=_REAL,
    clusters=_INT,
)
COMPARISONS = _schema(
    **_CELL,
    reference=_TEXT,
    benchmark=_TEXT,
    n=_INT,
    b=_INT,
    c=_INT,
    difference=_REAL,
    low=_REAL,
    high=_REAL,
    p=_REAL,
    p_holm=_REAL,
    clusters=_INT,
    p_clustered=_REAL,  # p_holm adjusts p_clustered
    detectable=_REAL,  # smallest true difference that is found in 80 of 100 such comparisons
    claim=_TEXT,
    seed_deviation=_REAL,  # which checkpoints p is about; spread of the difference over seeds
    aa_difference=_REAL,
    aa_p=_REAL,  # two seeds of one arm, compared in the same way
)

CLAIMS = _schema(
    claim_id=_TEXT,  # of sample, kind, place and text
    sample_id=_TEXT,
    doc_id=_TEXT,
    kind=_TEXT,  # of the caption
    sentence=_INT,  # its place in the caption, from 0
    text=_TEXT,
    verdict=_TEXT,  # what supports it: image, context, both, neither; "" where no judge said
    image_score=_REAL,  # 0-1, of text evidence; a model gives none
    context_score=_REAL,
    image_evidence=_TEXT,  # nearest sentence, or a model's words
    context_evidence=_TEXT,
    lacking=pa.list_(_TEXT),  # names, numbers and colours that no side has
    ngrams=_INT,  # runs of eight words in it
    copied_ngrams=_INT,  # of these, how many stand in the context as they are
    judge=_TEXT,  # a model as the server names it, or `text evidence`
)
# The same of claims that were labelled, false ones planted among them.
LABELLED = pa.schema(
    [
        *CLAIMS,
        *_schema(
            planted=_TEXT,  # by which rule it was made false: colour, count, page; "" for none
            label_a=_TEXT,  # two labels, given without sight of each other
            label_b=_TEXT,
            held_out=pa.bool_(),  # of a page that no threshold was chosen on
        ),
    ]
)

# Tables whose rows stand in folders of their own: without rows there is no folder, as `datasets`
# refuses an empty one.
FOLDERS = ("conversations", "with_images", "links_only")
_TABLES = {
    "00_published": {
        "samples": SAMPLES,
        "images": IMAGES,
        "consent": CONSENT,
        "captions": CAPTIONS,
        "questions": QUESTIONS,
        "conversations": CONVERSATIONS,
    },
    "00_shapes": {"conversations": CONVERSATIONS, "images": IMAGES, "blank": IMAGES},
    "01_documents": {"documents": DOCUMENTS, "quarantine": QUARANTINE},
    "02_filtering": {"documents": FILTERED, "samples": SAMPLES},
    "03_images": {"images": IMAGES, "consent": CONSENT},
    "04_selection": {
        "samples": SELECTED,
        "embeddings": EMBEDDINGS,
        "duplicates": DUPLICATES,
    },
    "05_experts": {"priors": PRIORS, "experts": EXPERTS},
    "06_captioning": {"captions": CAPTIONS},
    "07_qa_generation": {"questions": QUESTIONS, "requests": REQUESTS},
    "08_merging": {"conversations": CONVERSATIONS},
    "09_publishing": {"with_images": WITH_IMAGES, "links_only": LINKS_ONLY},
    "10_finetuning": {"steps": STEPS, "arms": ARMS},
    "11_captioner": {
        "steps": STEPS,
        "arms": ARMS,
        "predictions": PREDICTIONS,
        "scores": CAPTION_SCORES,
    },
    "12_evaluation": {
        "results": RESULTS,
        "scores": BENCHMARK_SCORES,
        "comparisons": COMPARISONS,
    },
    "13_grounding": {"claims": CLAIMS, "labelled": LABELLED},
    "14_leakage": {"answerable": ANSWERABLE},
    "15_deduplication": {"sweep": SWEEP},
    "16_contamination": {"hits": HITS, "recall": RECALL},
    "17_moderation": {
        "captions": CAPTIONS,
        "questions": QUESTIONS,
        "moderated": MODERATED,
        "removals": REMOVALS,
    },
    "40_comparison": {"pairs": PAIRS, "votes": VOTES},
}
SCHEMAS: dict[str, dict[str, pa.Schema]] = {
    stage: {**tables, "dropped": DROPPED} for stage, tables in _TABLES.items()
}
