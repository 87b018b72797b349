"""A captioner behind a server: it reads of stage 06 what it was taught."""

import pytest
from PIL import Image

from vislib.engines import Request
from vislib.engines.openai import chat_messages
from vislib.training import tiny
from vislib.training.generation import Question, encode
from vislib.training.models import open_processor


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_server_reads_of_stage_06_what_was_taught(tmp_path, name):
    """Tokens that a server's processor makes of the messages are those that a caption stands behind
    in training.
    """
    tiny.build(name, tmp_path / "model")
    processor, image = open_processor(tmp_path / "model"), tmp_path / "image.png"
    Image.effect_noise((60, 40), 60).save(image)
    asked = Request(
        id="s", prompt="Say [image] what\n\nyou see:", prompt_sha="", image_id="i", image_path=image
    )
    sent = chat_messages(asked)
    sent[0]["content"][1] = {"type": "image", "path": str(image)}  # as servers read the data URI
    served = processor.apply_chat_template(
        sent, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    taught = encode(processor, Question(f"{asked.prompt}<image>", str(image), 1))
    assert served["input_ids"][0] == taught.input_ids
