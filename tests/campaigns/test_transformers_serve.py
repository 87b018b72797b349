"""A real model behind a real server: a tiny LLaVA that this test builds, served by `transformers
serve`.

Its words are noise, so this asks for form, not content: stages 06 and 07 send requests that such a
server takes, images among them, and account for every answer.
"""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.campaigns.real_servers import serving
from vislib.runs import InputError, start_run, tables
from vislib.runs.cells import do_work
from vislib.runs.contract import IMAGES, SAMPLES
from vislib.runs.tables import TableWriter

pytestmark = pytest.mark.campaign
_LINES = [
    "A red boat lies on the grey shore.",
    "<Human>: Which colour has it?\n<Assistant>: Red, I see.",
    "0123456789",
]
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% if m['content'] is string %}{{ m['content']"
    " }}{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{"
    " c['text'] }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}{% if add_generation_prompt"
    " %}ASSISTANT:{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A LLaVA of some 100 K parameters with a byte-level tokenizer of its own."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers import LlavaForConditionalGeneration as Llava

    folder = tmp_path_factory.mktemp("tiny-llava")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = ["<pad>", "<s>", "</s>", "<image>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        _LINES, trainers.BpeTrainer(special_tokens=special, initial_alphabet=letters)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=_TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    llava = Llava(
        LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=32, patch_size=8, **sizes),
            image_seq_length=16,
            text_config=LlamaConfig(
                vocab_size=len(tokenizer), max_position_embeddings=8192, **sizes
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    llava.generation_config.eos_token_id = tokenizer.eos_token_id
    llava.generation_config.exponential_decay_length_penalty = (
        4,
        2.0,
    )  # noise ends after a few words too
    llava.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    """The base URL of `transformers serve` with that model."""
    home = tmp_path_factory.mktemp("hub")
    (home / "hub").mkdir()
    command = [
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        str(model),
        "--device",
        "cpu",
    ]
    with serving(
        command, health="/health", log=home / "log.txt", HF_HOME=str(home), HF_HUB_OFFLINE="1"
    ) as address:
        yield f"{address}/v1"


@pytest.fixture
def parameters(model, url, tmp_path, monkeypatch):
    """What stage 06 is given: three samples, their images, the server."""
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # a local server needs none
    samples, images = (
        TableWriter(tmp_path / "samples", SAMPLES),
        TableWriter(tmp_path / "images", IMAGES),
    )
    for i in range(3):
        address = f"http://x.org/{i}.png"
        Image.effect_noise((90, 60), 80).convert("RGB").save(tmp_path / f"{i}.png")
        samples.write(
            {
                "sample_id": f"s{i}",
                "doc_id": "d",
                "image_index": 0,
                "image_url": address,
                "alt_text": "a boat",
                "page_url": "http://x.org",
                "context": "Boats <image> lie here.",
                "n_context_tokens": 6,
                "width": 90,
                "height": 60,
            }
        )
        images.write(
            {
                "image_url": address,
                "image_id": f"i{i}",
                "status": "ok",
                "reason": "",
                "path": f"{i}.png",
                "width": 90,
                "height": 60,
                "format": "PNG",
                "perceptual_hash": "0",
            }
        )
    samples.close()
    images.close()
    return {
        "samples": str(tmp_path / "samples"),
        "images": str(tmp_path / "images"),
        "engine": "openai",
        "model": str(model),
        "base_url": url,
        "max_in_flight": 2,
        "max_answer_tokens": 64,
        "image_side": 64,
    }


def finished(run) -> dict:
    run.finish()
    return json.loads((run.stage.folder / "run.json").read_text())


def test_stages_06_and_07_are_answered(parameters):
    run = start_run("06_captioning", parameters)
    do_work(run)
    record, rows = finished(run), list(tables.read_rows(run.stage.folder / "data/captions"))
    assert [(row["status"], row["reason"]) for row in rows] == [("ok", "")] * 6, rows
    assert all(row["caption"] and 0 < row["tokens_out"] <= 64 for row in rows)
    assert (
        record["usage"]["tokens_in"] == sum(row["tokens_in"] for row in rows) > 6 * 16
    )  # an image is 16 tokens

    kept = {name: value for name, value in parameters.items() if name != "image_side"}
    run = start_run(
        "07_qa_generation",
        kept | {"captions": str(run.stage.folder / "data/captions"), "max_drop_rate": 1.0},
    )
    with pytest.raises(InputError, match="no round is left"):  # noise is not in the Q&A format
        do_work(run)
    assert run.counts()["request"] == {"taken": 12, "kept": 12, "dropped": {}}
    assert 6 < len(run.journal("openai")) <= 6 + 12  # equal captions share their answers
    run.close()
