"""What the prompt of a caption says, by kind: one rendering for who asks (06) and for who learns to
answer (11).

`contextual` reads the page around the image, `non_contextual` nothing but the image (VisCon-100K,
section 3.2), `fused` what experts found in it (DenseFusion-1M, Perceptual Fusion),
`fused_contextual` both. A model that is trained on these prompts can stand in for the one that
wrote the captions, as both papers do to go from 100 K to 1 M.
"""

import re
from pathlib import Path

from vislib import priors, prompts
from vislib.runs.errors import InputError
from vislib.runs.tables import Row

PAGE = ("page_url", "alt_text", "context")
# By source; a prompt of one's own must hold one field of each source of its kind.
_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "contextual": (PAGE,),
    "non_contextual": (),
    "fused": (priors.FIELDS,),
    "fused_contextual": (PAGE, priors.FIELDS),
}
KINDS = tuple(_FIELDS)
FUSED = frozenset(("fused", "fused_contextual"))  # which need priors
# Sent with [ ]: to LLaVA and others `<image>` is where pixels go.
_MARK = re.compile("<(image|another-image)>")


def load_prompt(kind: str, own: Path | None, ours: str) -> prompts.Template:
    """The template in the file `own`, else `ours`. Raises InputError if it shows nothing of what
    its kind reads.
    """
    template = prompts.load(str(own) if own else ours)
    for source in _FIELDS[kind]:
        # Every caption would be paid for without its page or its priors.
        if template.fields.isdisjoint(source):
            held = f"{{{{{source[-1]}}}}} or another of {', '.join(source)}"
            raise InputError(f"{own}: a {kind} prompt must hold {held}")
    return template


def render_prompt(template: prompts.Template, kind: str, sample: Row, found: Row | None) -> str:
    """The prompt for a row of 02 or 04, with its image's row of 05 (None: a kind without
    priors).
    """
    values = {name: sample[name] or "" for name in PAGE}
    if found:
        values |= priors.as_fields(sample, found)
    # A field of another kind stays unknown: a control that sees the page would be none.
    fields = {name: values[name] for source in _FIELDS[kind] for name in source}
    return _MARK.sub(r"[\1]", template.render(**fields))
