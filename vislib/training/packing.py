"""Packing: several rows in one sequence waste no token on padding, if the model's attention keeps
them apart.

Whether it does depends on the architecture, on the attention that it runs with and on its cache,
and nothing warns when it does not. So it is tried on the model itself.
"""

from typing import Any

import torch

from vislib.runs.errors import InputError

_TOKENS = 16  # of each of the two rows that it is tried on


def prove_packing(model: Any, processor: Any) -> None:
    """Raise InputError if a row that is packed behind another one sees it.

    Two rows are packed, then the first is replaced by another of its length: the logits of the
    second must not change in a single bit. Takes two forward passes of 32 tokens, in evaluation
    mode, with the arguments of training.
    """
    bare = getattr(model, "module", model)  # of DistributedDataParallel or DeepSpeed
    special = {processor.image_token_id, *processor.tokenizer.all_special_ids}
    plain = [token for token in range(len(processor.tokenizer)) if token not in special][
        : 3 * _TOKENS
    ]
    device = bare.get_input_embeddings().weight.device
    positions = torch.arange(_TOKENS, device=device).repeat(2)[None]
    training = model.training
    model.eval()
    with torch.no_grad():
        first, second = (
            model(
                input_ids=torch.tensor([before + plain[-_TOKENS:]], device=device),
                position_ids=positions,
            ).logits[:, _TOKENS:]
            for before in (plain[:_TOKENS], plain[_TOKENS : 2 * _TOKENS])
        )
    model.train(training)
    if not torch.equal(first, second):
        how = f"{bare.config.model_type} with {bare.config._attn_implementation} attention"
        raise InputError(
            f"packing is True, but {how} lets packed rows see each other; set packing to False "
            "(a model that keeps a cache, use_cache, sees them in any case)"
        )
