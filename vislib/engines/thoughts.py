"""Thoughts that a model writes before it answers, in every dialect that servers leave in the text.

DeepSeek and Qwen write `<think>…</think>` (their chat templates may hold the opening mark, so
that only the closing one is seen), Kimi `◁think▷…◁/think▷`, Magistral `[THINK]…[/THINK]`, Cohere
`<|START_THINKING|>…<|END_THINKING|>`, gpt-oss channels (harmony), of which some servers remove the
marks but not the names. GLM and others wrap what follows in `<answer>`. Captions and questions
are made of the answer alone: a draft is none.
"""

import re

_TAG = r"(?:\w{1,12}[:_])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|reflection|scratchpad)"
_TO_THE_TEXT = r"(?:[^<\n]|<\|constrain\|>){0,80}<\|message\|>"
_HARMONY = r"(?:<\|end\|>\s{0,9})?(?:<\|start\|>assistant)?<\|channel\|>"
_OPENING_MARK = (
    rf"(?:<{_TAG}(?:\s[^<>]{{0,80}})?>|◁think▷|\[THINK\]|<details type=.reasoning.[^<>]{{0,80}}>"
    r"|<\|(?:START_THINKING|begin_of_thought|thinking)\|>"
    rf"|{_HARMONY}(?:analysis|commentary){_TO_THE_TEXT}"
    r"|<\|channel>(?:thought|analysis)|<unused94>thought|\Aanalysis(?=\S)(?=[\s\S]*assistantfinal)"
    r"|\AHere(?: is|'s) my thought process:)"
)
# An opening mark begins a line: elsewhere a text may speak of the tag.
_OPENING = re.compile(rf"^[ \t]{{0,8}}{_OPENING_MARK}", re.IGNORECASE | re.MULTILINE)
_SPOKEN = re.compile(_OPENING_MARK, re.IGNORECASE)
_CLOSING_MARK = (
    rf"(?:</{_TAG}>|◁/think▷|\[/THINK\]|</details>|<\|(?:END_THINKING|end_of_thought|/thinking)\|>"
    rf"|{_HARMONY}final{_TO_THE_TEXT}|<channel\|>|<unused95>|assistantfinal|Here(?: is|'s) my"
    r" response:)"
)
_CLOSING = re.compile(_CLOSING_MARK, re.IGNORECASE)
# Without its opening, a closing mark counts where a line begins or ends, or where none was opened
# before.
_LONE = re.compile(
    rf"^[ \t]{{0,8}}{_CLOSING_MARK}|{_CLOSING_MARK}(?=[ \t]{{0,8}}$)", re.IGNORECASE | re.MULTILINE
)
_END_OF_TURN = re.compile(r"<\|(?:return|end)\|>\s{0,9}\Z")
_TAGS = ("answer", "response", "final_answer", "final", "output")
_WRAPPERS = [(f"<{tag}>", f"</{tag}>") for tag in _TAGS] + [
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|begin_of_box|>", "<|end_of_box|>"),
]


def without_thoughts(text: str) -> str:
    """The answer in a model's text, without its thoughts and without blanks around it.

    An opening mark at the beginning that nothing closes leaves no answer: the model was still
    thinking.
    """
    answer = ""
    begin = 0
    while opening := _OPENING.search(text, begin):
        closing = _CLOSING.search(text, opening.end())
        # an answer was given before it: the mark is part of that text
        if not closing and text[: opening.start()].strip():
            break
        answer += text[begin : opening.start()]
        begin = closing.end() if closing else len(text)
    rest = answer + text[begin:]
    # what stands before a closing mark was thought, wherever it was opened
    return _unwrapped(rest[_lone_end(rest) :])


def _lone_end(text: str) -> int:
    """Where the last closing mark ends that nothing opened; 0 if there is none."""
    spoken = _SPOKEN.search(text)
    before = text[: spoken.start()] if spoken else text
    marks = (*_LONE.finditer(text), *_CLOSING.finditer(before))
    # pages speak of HTML's details without any thought in them
    return max((mark.end() for mark in marks if mark[0] != "</details>"), default=0)


def _unwrapped(text: str) -> str:
    """The inside of a text that is one `<answer>`, the closing mark perhaps missing."""
    body = _END_OF_TURN.sub("", text).strip()
    for opening, closing in _WRAPPERS:
        whole = closing not in body or body.endswith(closing)
        if body.startswith(opening) and body.count(opening) == 1 and whole:
            body = body.removeprefix(opening).removesuffix(closing).strip()
    return body
