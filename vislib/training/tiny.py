"""Vision-language models of a few thousand random weights, so that stages 10 to 12 run anywhere in
minutes.

They have the architecture, the processor and the chat form of the paper's models (VisCon-100K,
section 5: LLaVA-1.5, which ShareGPT4V-7b is, and IDEFICS2-8b) and of one newer family. Their
tokenizer is trained on the embedded pages; weights come from a seed. They show the path, never a
result.
"""

from functools import cache
from pathlib import Path
from typing import Any

from vislib.media.vision import quiet_transformers
from vislib.training import vicuna

_VOCABULARY = 1500  # entries: most words of the pages whole, the weights still few
_CONTEXT = 4096  # tokens
_SIDE, _PATCH = 56, 14  # px of an image as the vision tower sees it, and of a patch
_TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": _CONTEXT,
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": _SIDE,
    "patch_size": _PATCH,
}
_ENDS = ("bos", "eos", "pad")
_IDEFICS = (
    "{% for m in messages %}{{ 'User:' if m['role'] == 'user' else 'Assistant: ' }}{% for part in"
    " m['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor"
    " %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def build(name: str, folder: Path) -> None:
    """Save the tiny model of that name, one of `NAMES`, with its processor into `folder`, as the
    hub's are.
    """
    import torch

    # always the same weights, and the caller's chance as it was
    with quiet_transformers(name, "model", "AutoModel"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = made(name)
    vocabulary = processor.tokenizer.get_vocab()
    ends = [vocabulary[end] for end in ("</s>", "<end_of_utterance>") if end in vocabulary]
    # as checkpoints on the hub say it, for servers that read nothing else
    model.generation_config.eos_token_id = sorted(ends)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)


@cache
def _trained_tokenizer() -> str:
    """A byte-level BPE tokenizer of the embedded pages, in the JSON of the `tokenizers` library."""
    from tokenizers import ByteLevelBPETokenizer

    from vislib.sample import paths

    # of bytes: no text of a test is unknown to it, in any script
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        (path.read_text(encoding="utf-8") for path in paths()),
        vocab_size=_VOCABULARY,
        min_frequency=0,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        show_progress=False,
    )
    return str(tokenizer.to_str())


def made(name: str) -> tuple[Any, Any]:
    """Model and processor of that name, weights by torch's chance."""
    import transformers as t
    from tokenizers import Tokenizer

    given = NAMES[name]
    kind, (pixels, seen) = given["kind"], given["images"]
    tokenizer = t.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer()),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=_CONTEXT,
    )
    images = getattr(t, f"{pixels}ImageProcessorPil")(**seen)
    processor = getattr(t, f"{kind}Processor")(images, tokenizer, **given["processor"])
    ids = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in _ENDS}
    # the processor has added to the tokenizer
    words = _TEXT | given.get("weights", {}) | ids | {"vocab_size": len(tokenizer)}
    config = getattr(t, f"{kind}Config")(
        text_config=getattr(t, f"{given['language']}Config")(**words),
        vision_config=_VISION | given.get("weights", {}) | given.get("vision", {}),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **ids,
        **given["config"],
    )
    return getattr(t, f"{kind}ForConditionalGeneration")(config), processor


# By name: the family of transformers' classes and of its language model, its image processor, and
# what else processor and configuration are told.
NAMES: dict[str, dict[str, Any]] = {
    "tiny-llava": {
        "kind": "Llava",
        "language": "Llama",
        "images": (
            "CLIP",
            {"size": {"shortest_edge": _SIDE}, "crop_size": {"height": _SIDE, "width": _SIDE}},
        ),
        "processor": {
            "patch_size": _PATCH,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "chat_template": vicuna.TEMPLATE,
        },
        "vision": {"model_type": "clip_vision_model"},
        "config": {"vision_feature_layer": -2},  # as LLaVA: the last layer is never used
    },
    "tiny-idefics2": {
        "kind": "Idefics2",
        "language": "Mistral",
        "images": (
            "Idefics2",
            {
                "size": {"shortest_edge": _SIDE // 2, "longest_edge": _SIDE},
                "do_image_splitting": False,
            },
        ),
        # tokens an image becomes; IDEFICS2 has 64
        "processor": {"image_seq_len": 8, "chat_template": _IDEFICS},
        "config": {
            "perceiver_config": {
                "hidden_size": _TEXT["hidden_size"],
                "resampler_n_latents": 8,
                "resampler_depth": 1,
                "resampler_n_heads": 2,
                "resampler_head_dim": 16,
                "num_key_value_heads": 1,
            }
        },
    },
    "tiny-idefics3": {
        "kind": "Idefics3",
        "language": "Llama",
        "images": (
            "Idefics3",
            {
                "size": {"longest_edge": 2 * _SIDE},
                "max_image_size": {"longest_edge": _SIDE},
                "do_image_splitting": False,
            },
        ),
        # a token for each patch: with four among a hundred of text, answers begin to heed the
        # picture much later
        "processor": {"image_seq_len": (_SIDE // _PATCH) ** 2, "chat_template": _IDEFICS},
        # the usual 0.02 is meant for a thousand dimensions: from it, layers so narrow need hundreds
        # of steps more before anything of a picture reaches an answer
        "weights": {"initializer_range": 0.1},
        "config": {"scale_factor": 1},
    },
}
