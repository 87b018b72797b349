"""The rules of the notebooks, held for every notebook; and the sample set run as its users run
it.
"""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from papermill.inspection import inspect_notebook

from tests.sets import five_documents, result_bytes, run_set
from vislib.runs import sets, tables
from vislib.runs.params import parameters_source, read_schema
from vislib.runs.yaml_files import read_parameters

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = {
    "01_documents",
    "02_filtering",
    "03_images",
    "04_selection",
    "05_experts",
    "06_captioning",
    "07_qa_generation",
    "08_merging",
    "09_publishing",
    "13_grounding",
    "14_leakage",
    "15_deduplication",
    "16_contamination",
    "20_pipeline",
    "21_tokens",
    "22_overlap",
    "23_qa_types",
    "24_word_clouds",
    "25_examples",
    "30_selection",
    "31_images",
    "32_caption_statistics",
    "33_priors",
    "34_grounding",
    "35_leakage",
    "36_deduplication",
    "40_comparison",
}
MODELS = {
    "00_shapes",
    "10_finetuning",
    "11_captioner",
    "12_evaluation",
    "26_benchmarks",
    "27_densefusion_benchmarks",
    "35_leakage",
}
OTHERS = {"17_moderation", "00_published"}  # in neither set: template and published have them
EXPECTED = SAMPLE | MODELS | OTHERS
FUSED = "06_captioning.fused"  # the sample's one variant
TOUR = ROOT / "notebooks/00_tour.ipynb"  # no stage, and committed with its outputs
NOTEBOOKS = sorted(p for p in TOUR.parent.glob("*.ipynb") if p != TOUR)
SETS = sorted(p for p in (ROOT / "params").iterdir() if p.is_dir() and any(p.glob("[0-9]*.yaml")))
every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
every_set = pytest.mark.parametrize("folder", SETS, ids=lambda p: p.name)


def cells(notebook: Path, kind: str) -> list[dict]:
    return [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def is_parameters(cell: dict) -> bool:
    return "parameters" in cell["metadata"].get("tags", [])


def test_every_notebook_is_looked_at():
    assert {p.stem for p in NOTEBOOKS} == EXPECTED
    assert {p.name for p in SETS} == {
        "sample",
        "sample-models",
        "viscon-100k",
        "viscon-1m",
        "densefusion-4v-100k",
        "densefusion-1m",
        "template",
        "trial",
        "published",
    }


@every_notebook
def test_form(notebook):
    book = json.loads(notebook.read_text())
    code = cells(notebook, "code")
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert "language_info" not in book["metadata"]
    assert [c["id"] for c in book["cells"]] == [
        str(n) for n in range(len(book["cells"]))
    ]  # as the strip filter writes
    assert all(not c["outputs"] and c["execution_count"] is None for c in code)
    assert sum(map(is_parameters, code)) == 1
    assert len(book["cells"]) <= (26 if notebook.stem in ("10_finetuning", "11_captioner") else 20)
    lines = [
        len([s for s in source(c).splitlines() if s.strip()]) for c in code if not is_parameters(c)
    ]
    assert max(lines) <= 12
    assert sum(lines) <= 100
    assert "sys.path" not in "".join(map(source, code))  # the package is installed editable


@every_notebook
def test_the_story_is_prose_and_the_work_is_the_librarys(notebook):
    book = json.loads(notebook.read_text())
    name = notebook.stem
    assert book["cells"][0]["cell_type"] == "markdown"
    assert source(book["cells"][0]).startswith(f"# {name[:2]} · ")
    for cell in cells(notebook, "markdown"):
        assert len(re.findall(r"\w+", re.sub(r"`[^`]*`|\(.*?\)", " ", source(cell)))) <= 75, source(
            cell
        )
    for cell in cells(notebook, "code"):
        if "work" in cell["metadata"].get("tags", []):
            continue  # where a researcher puts a rule of their own
        tree = ast.parse(re.sub(r"^%.*$", "", source(cell), flags=re.M))
        for node in ast.walk(tree):
            assert not isinstance(
                node, ast.FunctionDef | ast.ClassDef | ast.For | ast.While | ast.AsyncFunctionDef
            )
    text = "\n".join(source(c) for c in cells(notebook, "code"))
    assert f'start_run("{name}", globals())' in text
    assert source(cells(notebook, "code")[-1]).strip().endswith("run.finish()")
    headings = [
        c for c in book["cells"] if c["cell_type"] == "markdown" and source(c).startswith("## ")
    ]
    assert len(headings) >= 3


@every_notebook
def test_papermill_reads_the_parameters_as_we_do(notebook):
    schema = read_schema(notebook)
    theirs = inspect_notebook(str(notebook))
    assert set(theirs) == set(schema)
    for name, parameter in schema.items():
        assert theirs[name]["inferred_type_name"] == parameter.type, name
        assert ast.literal_eval(theirs[name]["default"]) == parameter.default, name
        assert theirs[name]["help"].startswith(parameter.help), name
        assert parameter.help, f"{name} has no help"
    assert len(schema) == len([s for s in parameters_source(notebook).splitlines() if s.strip()])


@every_set
def test_sets_name_what_was_decided_and_why(folder):
    files = sorted(folder.glob("*.yaml"))
    assert files
    for file in files:
        given, lines = read_parameters(file), file.read_text().splitlines()
        assert given == (yaml.safe_load(file.read_text()) or {})
        assert not given.keys() & {"run_dir", "variant"}, f"{file.name}: names say these"
        assert lines[0].startswith("# "), f"{file.name}: its first line says what it makes"
        for name in given:
            assert any(re.match(rf"{name}:.*# \w", line) for line in lines), f"{file}: {name}: why?"
    assert (folder / "README.md").exists()


def test_the_sample_set_is_the_defaults():
    entries = {entry.stage.name: entry for entry in sets.read_set(ROOT / "params/sample")}
    assert set(entries) == {*SAMPLE, FUSED}
    for name in SAMPLE:
        assert set(entries[name].omitted) == set(entries[name].stage.schema), name
        assert entries[name].stage.schema["run_dir"].default == "runs/sample"


def test_the_defaults_of_models_and_their_figures_are_the_values_of_the_tiny_ones():
    """But for where tables come from, what is named after the arm, and what changes speed alone."""
    stages = {e.stage.name: e.stage for e in sets.read_set(ROOT / "params/sample-models")}
    for name in MODELS:
        stage = stages[f"{name}.leaky_mix" if name == "10_finetuning" else name]
        own = {n for n, p in stage.schema.items() if p.flags & {"input", "throughput"}}
        own |= {"run_dir", "variant", "model_name", "arm", "models", "reference"}
        assert {n: p.default for n, p in stage.schema.items() if n not in own} == {
            n: value for n, value in stage.values.items() if n not in own
        }, name
    assert {stage.notebook for stage in stages.values()} == MODELS


def test_the_paper_set_holds_the_papers_values():
    """VisCon-100K, sections 3.1 to 3.4; what the paper leaves open is marked as ours in the
    files.
    """
    values = {e.stage.notebook: e.stage.values for e in sets.read_set(ROOT / "params/viscon-100k")}
    assert values["01_documents"]["source"] == "hub"
    assert re.fullmatch("[0-9a-f]{40}", values["01_documents"]["revision"])
    assert values["02_filtering"]["max_tokens"] == 2000
    assert values["02_filtering"]["tokenizer"].startswith("lmsys/vicuna-7b")
    assert values["02_filtering"]["context_tokens"] == 0
    assert values["06_captioning"]["kinds"] == ["contextual", "non_contextual"]
    assert values["06_captioning"]["engine"] == values["07_qa_generation"]["engine"] == "openai"
    assert values["07_qa_generation"]["model"].startswith("openchat/openchat-3.5") or values[
        "07_qa_generation"
    ]["model"].startswith("openchat/openchat_3.5")
    assert values["08_merging"]["embedding_model"].startswith("WhereIsAI/UAE-Large-V1")
    assert values["08_merging"]["similarity_threshold"] == 0.9
    assert values["08_merging"]["min_per_type"] == 2
    assert values["08_merging"]["test_fraction"] == 0.02


def ran(output: str) -> list[str]:
    """Names of the stages that ran; the others were unchanged."""
    return re.findall(r"^([\w.]+) +ok ", output, flags=re.M)


def test_five_documents_run_through_every_notebook_and_only_changes_run_again(tmp_path):
    folder, runs = five_documents(tmp_path / "five"), tmp_path / "runs"
    stages = sorted({*SAMPLE, FUSED})
    assert sorted(ran(run_set(folder, runs, "--jobs", "2"))) == stages
    records = {name: json.loads((runs / "five" / name / "run.json").read_text()) for name in stages}
    assert {r["status"] for r in records.values()} == {"ok"}
    assert records["01_documents"]["counts"]["row"]["taken"] == 5
    assert records["08_merging"]["counts"]["sample"]["kept"] > 0
    figures = list((runs / "five").glob("[23]*/figures/*.pdf"))
    assert len(figures) >= 11
    assert all(p.with_suffix(".png").exists() for p in figures)
    before = result_bytes(runs / "five")

    again = run_set(folder, runs)
    assert ran(again) == []
    assert again.count("unchanged") == len(stages)

    bins = yaml.safe_load((folder / "21_tokens.yaml").read_text()) | {"bins": 7}
    (folder / "21_tokens.yaml").write_text(yaml.safe_dump(bins))
    assert ran(run_set(folder, runs)) == ["21_tokens"]

    after = result_bytes(runs / "five")
    assert {name for name in before if before[name] != after[name]} <= {
        n for n in before if n.startswith("21_tokens/")
    }
    assert run_set(folder, runs, "--only", "22", "--force").count(" ok ") == 1
    assert result_bytes(runs / "five") == after  # a figure made again is the same figure

    longest = max(
        r["n_tokens"]
        for r in tables.read_rows(runs / "five/02_filtering/data/documents", ["n_tokens"])
    )
    cap = yaml.safe_load((folder / "02_filtering.yaml").read_text()) | {"max_tokens": longest - 1}
    (folder / "02_filtering.yaml").write_text(yaml.safe_dump(cap))
    for file in folder.glob("*.yaml"):
        if file.stem not in ("01_documents", "02_filtering", "03_images"):
            file.unlink()
    assert ran(run_set(folder, runs)) == ["02_filtering", "03_images"]  # what depends on it
