"""What the sets of the papers say: their values, their arms, and where their inputs come from."""

import re
import shutil
from pathlib import Path

import pytest

from tests.test_notebooks import ROOT, SETS
from vislib.runs import InputError, sets

OUTSIDE = {  # what the sets need that no stage makes
    "viscon-100k": {"llava_v1_5_mix665k.json", "the-cauldron", "sharegpt4v-7b-pretrained"},
    "viscon-1m": {"llava_v1_5_mix665k.json", "the-cauldron", "sharegpt4v-7b-pretrained"},
    "densefusion-4v-100k": {"*.parquet"},
    "densefusion-1m": {"llava_v1_5_mix665k.json", "llava-7b-unaligned"},
}


def inputs_elsewhere(folder: Path, monkeypatch) -> set[Path]:
    """Inputs of a set that no earlier file of it makes, and that are not in the repository."""
    found: list[Path] = []
    monkeypatch.setattr(sets, "require_exists", lambda path, *_: found.append(path))
    entries = sets.read_set(folder)
    sets.check_inputs(entries, entries)
    return {path for path in found if "runs" in path.relative_to(ROOT).parts}


def test_a_set_that_makes_captions_may_train_on_drawn_shapes_too(tmp_path, monkeypatch):
    """The kinds that 06 writes are those of 08, and of nothing else."""
    texts = {"00_shapes": "", "06_captioning": "", "07_qa_generation": "", "08_merging": ""}
    texts["10_finetuning"] = "conversations: 00_shapes/questions\nimages: 00_shapes/images\n"
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    inputs_elsewhere(tmp_path, monkeypatch)
    (tmp_path / "10_finetuning.yaml").write_text("conversations: 08_merging/shapes/questions\n")
    with pytest.raises(InputError, match="08_merging makes dropped, contextual"):
        inputs_elsewhere(tmp_path, monkeypatch)


@pytest.mark.parametrize("folder", SETS, ids=lambda p: p.name)
def test_a_set_lacks_nothing_but_what_its_readme_names(folder, monkeypatch):
    """Inputs are made by an earlier file, by another set of this project, or said to be put in
    place.
    """
    monkeypatch.delenv("VISLIB_RUNS", raising=False)
    readme = (folder / "README.md").read_text()
    places = inputs_elsewhere(folder, monkeypatch)
    outside = {path for path in places if "data" not in path.relative_to(ROOT).parts}
    assert {path.name for path in outside} == OUTSIDE.get(folder.name, set())
    for path in outside:
        named = path.parent if "*" in path.name else path
        assert str(named.relative_to(ROOT)) in readme
    for name in {path.relative_to(ROOT / "runs").parts[0] for path in places - outside}:
        assert f"(../{name}/README.md)" in readme


def test_the_paper_set_trains_every_arm_as_the_paper_does():
    """VisCon-100K, section 5, and the recipes that it refers to."""
    entries = sets.read_set(ROOT / "params/viscon-100k")
    arms = {
        e.stage.values["variant"]: e.stage.values
        for e in entries
        if e.stage.notebook == "10_finetuning"
    }
    names = [
        "base",
        "captions",
        "free_form",
        "multiple_choice",
        "questions",
        "separate",
        "leaky_mix",
        "non_contextual",
    ]
    dial = {f"sharegpt4v-leak-{level}": level / 100 for level in (0, 50, 100)}  # ours
    assert {name: arms[name]["caption_visible"] for name in dial} == dial
    assert set(arms) == dial.keys() | {
        f"{model}-{name}" for model in ("sharegpt4v", "idefics2") for name in names
    }
    both = {
        "epochs": 1.0,
        "max_steps": 0,
        "precision": "bfloat16",
        "warmup": 0.03,
        "weight_decay": 0.0,
    }
    both |= {
        "batch_size": 128,
        "gradient_checkpointing": True,
        "image_splitting": False,
        "max_samples": 0,
    }
    full = {
        "method": "full",
        "learning_rate": 2e-5,
        "max_length": 2048,
        "strategy": "zero3",
        "own_fraction": 1.0,
    }
    adapters = {
        "method": "dora",
        "lora_rank": 8,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "learning_rate": 1e-4,
    }
    differ = ("conversations", "arm", "variant")
    for model, recipe in (("sharegpt4v", full), ("idefics2", adapters)):
        shared = [
            {n: v for n, v in arms[f"{model}-{name}"].items() if n not in differ} for name in names
        ]
        assert all(values == shared[0] for values in shared)
        assert (both | recipe).items() <= shared[0].items()
        assert [arms[f"{model}-{name}"]["arm"] for name in names] == names
        tables_of = [arms[f"{model}-{name}"]["conversations"] for name in names]
        assert tables_of[1:-1] == [f"08_merging/contextual/{name}" for name in names[1:-1]]
        assert (tables_of[0], tables_of[-1]) == ("", "08_merging/non_contextual/leaky_mix")
    (evaluation,) = (e.stage.values for e in entries if e.stage.name == "12_evaluation")
    assert len(evaluation["models"]) == 16
    assert {"seedbench", "mmmu_val", "ai2d", "scienceqa_img", "llava_in_the_wild"} <= set(
        evaluation["tasks"]
    )
    assert "llama-3-8b" in evaluation["judge"].lower()


def values_of(name: str) -> dict[str, dict]:
    """Values of every stage of a set, by the stage's name."""
    return {e.stage.name: e.stage.values for e in sets.read_set(ROOT / "params" / name)}


def test_the_million_is_captioned_by_models_that_earlier_sets_trained(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for name, earlier, prompt in (
        ("viscon-1m", "viscon-100k", "contextual"),
        ("densefusion-1m", "densefusion-4v-100k", "fused"),
    ):
        asked = values_of(name)["06_captioning"]
        trained = values_of(earlier)["11_captioner"]
        assert (asked["model"], asked["base_url"]) == (f"../{earlier}/11_captioner/model", "")
        assert asked["kinds"] == [trained["kind"]] == [prompt]
        assert (asked[f"{prompt}_prompt"], trained["prompt"]) == (
            f"vislib/prompts/captioner_{prompt}.txt",
            "",
        )


def test_the_fusion_sets_hold_the_papers_values():
    """DenseFusion-1M: selection, captions by the strong model, then by the engine over the whole
    selection.
    """
    first, second = values_of("densefusion-4v-100k"), values_of("densefusion-1m")
    chosen = {
        name: first["04_selection"][name] for name in ("min_side", "clusters", "epsilon", "top_k")
    }
    assert chosen == {"min_side": 448, "clusters": 50_000, "epsilon": 0.4, "top_k": 20}
    assert first["05_experts"]["open_detector"].startswith("google/owlv2")
    assert all(first["05_experts"][name] for name in ("tagger", "detector", "ocr"))
    assert (first["06_captioning"]["limit"], second["06_captioning"]["limit"]) == (100_000, 0)
    assert first["06_captioning"]["kinds"] == second["06_captioning"]["kinds"] == ["fused"]
    assert second["06_captioning"]["samples"] == "../densefusion-4v-100k/04_selection/samples"
    assert first["11_captioner"]["epochs"] == 2.0
    use = [
        second[f"10_finetuning.{name}"]
        for name in ("1-prealign", "2-pretrain", "3-finetune", "4-base")
    ]
    assert [v["parts"][:-1] for v in use] == [
        [],
        ["vision", "connector"],
        ["connector"],
        ["connector"],
    ]
    assert [v["learning_rate"] for v in use] == [1e-3, 2e-5, 2e-5, 2e-5]
    assert use[1]["vision_from_layer"] == 12
    assert [Path(v["model"]).parent.name for v in use[1:]] == [
        "10_finetuning.1-prealign",
        "10_finetuning.2-pretrain",
        "10_finetuning.1-prealign",
    ]


def test_the_lines_that_the_template_leaves_to_decide_are_valid(tmp_path):
    """Each commented line `# name: value` without its mark is one that the set takes."""
    folder = Path(shutil.copytree(ROOT / "params/template", tmp_path / "mine"))
    sets.refuse_mixture(sets.read_set(folder))
    decided = []
    for file in folder.glob("*.yaml"):
        text, count = re.subn(r"^# (?=[a-z_]+: )", "", file.read_text(), flags=re.M)
        file.write_text(text.replace("engine: extractive", "engine: openai"))
        decided += [file.stem] * count
    assert len(decided) >= 10
    entries = {entry.stage.name: entry.stage.values for entry in sets.read_set(folder)}
    sets.refuse_mixture(sets.read_set(folder))
    assert entries["06_captioning"]["engine"] == entries["07_qa_generation"]["engine"] == "openai"
    assert entries["06_captioning"]["max_spend_usd"] == 20.0
    assert entries["06_captioning"]["model"] != entries["07_qa_generation"]["model"]


def test_the_sets_are_short():
    """A set says what somebody decided; what every run had stands in its params.yaml."""
    files = [p for p in (ROOT / "params").rglob("*") if p.suffix in (".yaml", ".csv")]
    assert len(files) > 60
    assert sum(len(file.read_text().splitlines()) for file in files) <= 1_000
