"""Vision models of a few thousand random weights, saved with processors as the hub's models are."""

import string
from pathlib import Path

import torch
import transformers as t

SIDE = 32  # px of their inputs
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
VISION = {**TEXT, "image_size": SIDE, "patch_size": 8}
SQUARE = {"height": SIDE, "width": SIDE}
LABELS = {0: "tabby, tabby cat", 1: "crane", 2: "street sign", 3: "crane", 4: "bell pepper, pepper"}


def clip_tokenizer(length: int) -> t.CLIPTokenizer:
    """Characters as tokens; no token but `!` is 0, which OWLv2 takes for padding."""
    letters = [
        *"!",
        *string.ascii_lowercase,
        *(f"{letter}</w>" for letter in string.ascii_lowercase),
    ]
    vocab = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    return t.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def siglip_tokenizer(folder: Path) -> t.SiglipTokenizer:
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    words = ["a photo of cat dog chart bridge", *string.ascii_lowercase]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(folder / "spiece"),
        vocab_size=50,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return t.SiglipTokenizer(
        vocab_file=str(folder / "spiece.model"), model_input_names=["input_ids"]
    )


def siglip2_tokenizer() -> t.Siglip2Tokenizer:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_lowercase]
    vocab = {token: i for i, token in enumerate(tokens)}
    return t.Siglip2Tokenizer(
        vocab=vocab, merges=[], padding_side="right", model_input_names=["input_ids"]
    )


def clip(folder: Path) -> None:
    config = t.CLIPConfig(
        text_config={**TEXT, "vocab_size": 55, "max_position_embeddings": 24, "eos_token_id": 54},
        vision_config=VISION,
        projection_dim=16,
    )
    images = t.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    save(folder, t.CLIPModel(config), t.CLIPProcessor(images, clip_tokenizer(24)))


def siglip(folder: Path) -> None:
    config = t.SiglipConfig(
        text_config={**TEXT, "vocab_size": 40, "max_position_embeddings": 24}, vision_config=VISION
    )
    images = t.SiglipImageProcessorPil(size=SQUARE)
    save(folder, t.SiglipModel(config), t.SiglipProcessor(images, siglip_tokenizer(folder)))


def siglip2(folder: Path) -> None:
    vision = {**TEXT, "num_patches": 16, "patch_size": 8}
    text = {**TEXT, "vocab_size": 40, "max_position_embeddings": 24}
    config = t.Siglip2Config(text_config=text, vision_config=vision)
    images = t.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    save(folder, t.Siglip2Model(config), t.SiglipProcessor(images, siglip2_tokenizer()))


def vit(folder: Path, **options: object) -> None:
    config = t.ViTConfig(
        **VISION, id2label=LABELS, label2id={name: i for i, name in LABELS.items()}, **options
    )
    save(folder, t.ViTForImageClassification(config), t.ViTImageProcessorPil(size=SQUARE))


def resnet() -> t.ResNetConfig:
    return t.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage4"]
    )


DETR = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 12,
    "id2label": LABELS,
}
EDGES = {"shortest_edge": 64, "longest_edge": 128}


def detr(folder: Path) -> None:
    config = t.DetrConfig(**DETR, use_timm_backbone=False, backbone_config=resnet())
    save(folder, t.DetrForObjectDetection(config), t.DetrImageProcessorPil(size=EDGES))


def yolos(folder: Path) -> None:
    config = t.YolosConfig(
        **TEXT,
        image_size=[64, 64],
        patch_size=8,
        num_detection_tokens=12,
        id2label=LABELS,
        use_mid_position_embeddings=False,
    )
    save(folder, t.YolosForObjectDetection(config), t.YolosImageProcessorPil(size=EDGES))


def rt_detr(folder: Path) -> None:
    backbone = t.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = t.RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        decoder_layers=1,
        num_queries=12,
        num_denoising=0,
        id2label=LABELS,
    )
    save(
        folder,
        t.RTDetrForObjectDetection(config),
        t.RTDetrImageProcessorPil(size={"height": 64, "width": 64}),
    )


def owlv2(folder: Path) -> None:
    config = t.Owlv2Config(
        text_config={**TEXT, "vocab_size": 55, "max_position_embeddings": 16, "eos_token_id": 54},
        vision_config=VISION,
        projection_dim=16,
    )
    images = t.Owlv2ImageProcessorPil(size=SQUARE)
    save(folder, t.Owlv2ForObjectDetection(config), t.Owlv2Processor(images, clip_tokenizer(16)))


def save(folder: Path, model: t.PreTrainedModel, processor: object) -> None:
    """Weights wide enough apart that scores differ."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
        if hasattr(model, "logit_scale"):
            model.logit_scale.fill_(3.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
