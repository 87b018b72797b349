"""Thoughts that a model writes before it answers, in every dialect that servers leave in the text.

DeepSeek and Qwen write `<think>…</think>` (their chat templates may hold the opening mark, so
that only the closing one is seen), Kimi `◁think▷…◁/think▷`, Magistral `[THINK]…[/THINK]`, Cohere
`<|START_THINKING|>…<|END_THINKING|>`, gpt-oss channels (harmony), of which some servers remove the
marks but not the names. GLM and others wrap what follows in `<answer>`. Captions and questions
are made of the answer alone: a draft is none.
"""

import re

_TAG = r"(?:\w{1,12}[:_])?(?:think(?:ing)?|thoughts?|reason(?:ing)?)"
_HARMONY = r"(?:<\|end\|>\s{0,9})?(?:<\|start\|>assistant)?<\|channel\|>"
# An opening mark begins a line: elsewhere a text may speak of the tag.
_OPENING = re.compile(
    rf"^[ \t]{{0,8}}(?:<{_TAG}>|◁think▷|\[THINK\]|<\|(?:START_THINKING|begin_of_thought)\|>"
    rf"|{_HARMONY}(?:analysis|commentary)[^<\n]{{0,80}}<\|message\|>"
    r"|<\|channel>(?:thought|analysis)|<unused94>thought|\Aanalysis(?=\S)(?=[\s\S]*assistantfinal))",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSING_MARK = (
    rf"(?:</{_TAG}>|◁/think▷|\[/THINK\]|<\|(?:END_THINKING|end_of_thought)\|>"
    rf"|{_HARMONY}final(?:[^<\n]{{0,80}})<\|message\|>|<channel\|>|<unused95>|assistantfinal)"
)
_CLOSING = re.compile(_CLOSING_MARK, re.IGNORECASE)
# Without its opening, a closing mark counts at the beginning or the end of a line alone.
_LONE = re.compile(rf"^[ \t]{{0,8}}{_CLOSING_MARK}|{_CLOSING_MARK}(?=[ \t]{{0,8}}$)", re.IGNORECASE | re.MULTILINE)
_WRAPPERS = (
    ("<answer>", "</answer>"),
    ("<response>", "</response>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|begin_of_box|>", "<|end_of_box|>"),
)


def without_thoughts(text: str) -> tuple[str, str]:
    """The answer in a model's text, and all that is cut: its thoughts with their marks.

    An opening mark at the beginning that nothing closes leaves no answer: the model was still thinking.
    """
    answer, cut, begin = [], [], 0
    while opening := _OPENING.search(text, begin):
        closing = _CLOSING.search(text, opening.end())
        if not closing and text[: opening.start()].strip():
            break
        end = closing.end() if closing else len(text)
        answer.append(text[begin : opening.start()])
        cut.append(text[opening.start() : end])
        begin = end
    rest = "".join([*answer, text[begin:]])
    lone = max((mark.end() for mark in _LONE.finditer(rest)), default=0)
    said, wrapper = _unwrapped(rest[lone:])
    return said, "".join([*cut, rest[:lone], wrapper])


def _unwrapped(text: str) -> tuple[str, str]:
    """The inside of a text that is one `<answer>`, the closing mark perhaps missing, and the marks."""
    body = text.strip()
    for opening, closing in _WRAPPERS:
        if body.startswith(opening):
            inside = body.removeprefix(opening)
            marks = opening + closing * inside.endswith(closing)
            return inside.removesuffix(closing).strip(), marks
    return text, ""
