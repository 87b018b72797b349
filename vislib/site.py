"""`make site`: the executed notebooks, figures and gallery of a run as one folder of pages that
open from the disk or any web server, without a network (`python -m vislib.site [SET]`).

What VisCon-100K prints as figures, and what stands between them, for readers who run nothing.
"""

import json
import re
import sys
from pathlib import Path
from shutil import copytree, rmtree

import jinja2

from vislib.runs.accounts import summary
from vislib.runs.errors import InputError
from vislib.runs.keys import ROOT
from vislib.runs.stage import read_record, run_folder

_PAGE = Path(__file__).with_suffix(".html")
# Exported notebooks fetch libraries for formulas and diagrams, which ours do not hold.
_SCRIPTS = re.compile(r"<script\b.*?</script>", re.DOTALL)
_LINK = re.compile(r'href="([\w.]+)\.ipynb"')
_BACK = r'\1<p style="margin:1em 2em;font:15px sans-serif"><a href="../index.html">← {}</a></p>'


def build(name: str, into: Path) -> Path:
    """Write the site of a set; its index.html. Raises InputError where no stage has finished, or
    where `into` holds something else.
    """
    run = run_folder(f"runs/{name}")
    # Attempts, and results of before, are not the run's.
    known = (f for f in sorted(run.glob("[0-9]*_*")) if f.suffix not in (".partial", ".previous"))
    stages = {f.name: f for f in known if read_record(f).get("status") == "ok"}
    if not stages:
        raise InputError(f"{run}: no stage has finished; run `python -m vislib.run params/{name}`")
    if into.exists() and not (into / "notebooks").is_dir():
        raise InputError(f"{into} is there, and no site; move it away")
    rmtree(into, ignore_errors=True)
    (into / "notebooks").mkdir(parents=True)
    for stage, folder in stages.items():
        page = _SCRIPTS.sub("", (folder / "notebook.html").read_text(encoding="utf-8"))
        # What this run has not made is no link.
        page = _LINK.sub(lambda m: f'href="{m[1]}.html"' if m[1] in stages else "", page)
        page = re.sub("(?<=</head>)(\\s*<body[^>]*>)", _BACK.format(name), page)
        (into / f"notebooks/{stage}.html").write_text(page, encoding="utf-8")
        for part, copy in (("figures", f"figures/{stage}"), ("data/gallery", "gallery")):
            if (folder / part).is_dir():
                copytree(folder / part, into / copy)
    template = jinja2.Template(_PAGE.read_text(encoding="utf-8"), autoescape=True)
    about, gallery = [_about(f, into) for f in stages.values()], (into / "gallery").is_dir()
    (into / "index.html").write_text(
        template.render(name=name, stages=about, gallery=gallery), encoding="utf-8"
    )
    return into / "index.html"


def _about(folder: Path, site: Path) -> dict[str, object]:
    """A stage's title, question and account, as its first cell and its record have them, and its
    figures: each picture with its PDF and the table behind it.
    """
    cells = json.loads((folder / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    title, question, *_ = "".join(cells[0]["source"]).lstrip("# ").split("\n\n")
    said = {"name": folder.name, "title": title, "variant": folder.suffix[1:]}
    said |= {"question": question, "account": summary(read_record(folder))}
    # Stems, since every figure is there as PNG, as PDF and as the table behind it.
    images = (site / "figures" / folder.name).glob("*.png")
    return said | {"figures": sorted(image.stem for image in images)}


if __name__ == "__main__":
    try:
        print(build(sys.argv[1] if sys.argv[1:] else "sample", ROOT / "site"))
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
