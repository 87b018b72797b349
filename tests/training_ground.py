"""Processors of several architectures, chat templates and tokenizers, and rows, for the tests of
training.
"""

import random
from functools import cache
from unittest.mock import patch

import transformers
from PIL import Image
from tokenizers import decoders, processors

from vislib.media.tokenization import load_tokenizer
from vislib.training import tiny
from vislib.training.labels import Encoded, Encoder

# As LLaVA-1.5 on the hub has it: no special token anywhere, white space behind answers, images
# before texts.
LLAVA_HUB = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() +"
    " ': '}}{% endif %}{% for content in message['content'] | selectattr('type', 'equalto',"
    " 'image') %}{{ '<image>\n' }}{% endfor %}{% for content in message['content'] |"
    " selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% endfor %}{%"
    " if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content']"
    " %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}<|im_end|>\n{%"
    " endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KINDS = [
    "tiny-llava",
    "llava-hub",
    "llama",
    "chatml",
    "tiny-idefics2",
    "idefics2-split",
    "tiny-idefics3",
    "idefics3-split",
    "llava-next",
]


@cache
def processor(kind: str):
    """A tiny model's processor as it is, with images cut into pieces, or with a template or
    tokenizer of another.
    """
    name = {"idefics2-split": "tiny-idefics2", "idefics3-split": "tiny-idefics3"}.get(kind, kind)
    made = tiny.made(name if name in tiny.NAMES else "tiny-llava")[1]
    made.image_processor.do_image_splitting = kind.endswith("-split")
    if kind == "chatml":
        made.tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
        )
        made.chat_template = CHATML
    if kind in {"llava-hub", "llama"}:
        made.chat_template = LLAVA_HUB
    parts = {
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": made.chat_template,
    }
    if kind == "llava-next":
        images = transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 56},
            crop_size={"height": 56, "width": 56},
            image_grid_pinpoints=[[56, 112], [112, 56]],
        )
        return transformers.LlavaNextProcessor(images, made.tokenizer, **parts)
    return (
        transformers.LlavaProcessor(made.image_processor, llama(), **parts)
        if kind == "llama"
        else made
    )


def llama():
    """The kind of tokenizer that LLaVA-1.5 has: SentencePiece's pieces, which put a space before
    every text.
    """
    tokenizer = load_tokenizer("mistral-common")
    tokenizer.encode_special_tokens = False
    parts = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(parts)
    begin = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.post_processor = begin
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
    )
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


def row(*values: str, images: int = 0) -> dict:
    turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
    return {"id": "r", "images": [f"{n}.png" for n in range(images)], "conversations": turns}


def encode(encoder: Encoder, given: dict, images: list[Image.Image]) -> Encoded:
    """What `encoder` makes of a row, of pictures in place of their files."""
    with patch("vislib.training.labels.open_image", side_effect=images):
        return encoder.encode(given)


def pictures(count: int) -> list[Image.Image]:
    """Noise of several sizes, always the same."""
    sizes = [(40 + 60 * number, 90) for number in range(count)]
    return [
        Image.frombytes("RGB", size, random.Random(size[0]).randbytes(3 * size[0] * size[1]))
        for size in sizes
    ]
