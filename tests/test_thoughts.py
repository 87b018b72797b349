"""Thoughts of models: cut in every dialect, and never where a text only speaks of such marks."""

import time

import pytest

from vislib.engines.thoughts import without_thoughts

ANSWER = "A grey bridge crosses the river.\n\n<Human> Why?\n<Assistant> So."


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        f"<think>\nDraft: <Human> Bad?\n<Assistant> Bad.\n</think>\n\n{ANSWER}",
        f"The user wants rounds: <Human> Bad?\n</think>\n\n{ANSWER}",
        f"The user wants rounds.</think>\n{ANSWER}",
        f"<thinking>Hm.</thinking>{ANSWER}",
        f"<Thought>Hm.</Thought>\n{ANSWER}",
        f"<seed:think>Hm.</seed:think>{ANSWER}",
        f"◁think▷<Human> Bad?◁/think▷{ANSWER}",
        f"[THINK]Hm.[/THINK]{ANSWER}",
        f"<think>I look.</think><answer>{ANSWER}</answer>",
        f"<think>I look.</think>\n<answer>\n{ANSWER}\n</answer>\n",
        f"<think></think>\n\n{ANSWER}",
        f"<think>One.</think>\n<think>Two.</think>\n{ANSWER}",
        f"<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
        + ANSWER,
        f"<|channel|>final<|message|>{ANSWER}",
        f"analysisThe user wants a caption.assistantfinal{ANSWER}",
        f"The user wants rounds.</think>{ANSWER}",
        f"The user wants rounds. ◁/think▷{ANSWER}",
        f"<think>One <think>two</think>three</think>{ANSWER}",
        f"The user wants rounds.</reasoning>{ANSWER}",
        f"<think\n>Hm.</think>{ANSWER}",
        f"<analysis>Hm.</analysis>\n{ANSWER}",
        f"<scratchpad>Hm.</scratchpad>{ANSWER}",
        f'<details type="reasoning" done="true">Hm.</details>\n{ANSWER}',
        f"<|thinking|>Hm.<|/thinking|>{ANSWER}",
        f"Here is my thought process: hm. Here is my response: {ANSWER}",
        f"<|begin_of_thought|>Hm.<|end_of_thought|>\n<|begin_of_solution|>{ANSWER}<|end_of_solution|>",
        f"<think>Hm.</think><answer><|begin_of_box|>{ANSWER}<|end_of_box|></answer>",
        f"<think>They name <answer>.</think><final_answer>{ANSWER}</final_answer>",
        f"<|channel|>final<|message|>{ANSWER}<|return|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final"
        " <|constrain|>json<|message|>" + ANSWER,
    ],
)
def test_thoughts_are_cut_in_every_dialect(text: str) -> None:
    assert without_thoughts(text) == ANSWER


@pytest.mark.parametrize(
    "text",
    [
        "The screen shows the tags <think> and </think> in a line of code.",
        "A page on prompts: it reads “[THINK] first”.",
        "analysis of the chart",
        "The button says <answer>.",
        "<answer>A</answer> and <answer>B</answer>",
        "A list:\n<details>\nits rows\n</details>\nand a bridge.",
    ],
)
def test_a_text_that_speaks_of_marks_is_whole(text: str) -> None:
    assert without_thoughts(text) == text


def test_a_model_that_was_still_thinking_gave_no_answer() -> None:
    text = "<think>\nI could ask <Human> Bad?\n<Assistant> Bad."
    assert without_thoughts(text) == ""


@pytest.mark.parametrize(
    "unit",
    [
        "<think>",
        "</think>",
        "\n<think>",
        "\n<think>\n</think>",
        "<",
        " ",
        "\n",
        "<|channel|>",
        "analysis",
    ],
)
def test_a_megabyte_of_marks_takes_linear_time(unit: str) -> None:
    began = time.process_time()
    without_thoughts(unit * (1_000_000 // len(unit)))
    assert time.process_time() - began < 5  # a quadratic reader would take hours
