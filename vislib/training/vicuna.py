"""Vicuna's chat form as LLaVA's recipe trains on it (VisCon-100K, section 5): one template for all
that is LLaVA's kin.

The system sentence comes first, a question ends with a space, an answer with the end token. The
images of a turn stand before its text, each on a line of its own, wherever the row marks them, and
the text beside images is stripped. With one image a turn, which LLaVA's rows have, this is LLaVA's
text to the letter.
"""

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives"
    " helpful, detailed, and polite answers to the user's questions."
)
# A message's content is a list of parts, or a text that marks images itself, as lmms-eval writes
# it.
TEMPLATE = (
    "{% macro text(m) %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in"
    " m['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{%"
    " endif %}{% endmacro %}{{ bos_token }}{{ text(messages[0]) if messages and"
    ' messages[0]["role"] == "system" else "' + SYSTEM + '" }} '
    "{% for m in messages %}{% set said = text(m) %}{% set images = said.count('<image>') %}"
    "{% if m['role'] == 'user' and images %}USER: "
    "{{ ('<image>\\n' * images + (said | replace('<image>', '') | trim)) | trim }} "
    "{% elif m['role'] == 'user' %}USER: {{ said }} "
    "{% elif m['role'] == 'assistant' %}ASSISTANT: {{ said }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
