"""The pipeline's counts, and the diagram that shows them."""

from pathlib import Path

from tests.figure_layout import assert_readable
from tests.figure_tables import three_samples
from vislib import figures
from vislib.figures import pipeline


def test_pipeline_counts_what_went_on_and_what_did_not(tmp_path: Path) -> None:
    run = three_samples(tmp_path)
    inputs = {name: run[name] for name in pipeline.TABLES}
    table = pipeline.pipeline_table(inputs, [run["conversations"], run["conversations"]])
    number = table.set_index(["step", "role", "item"])["count"].sort_index()
    assert number["Web documents", "kept", "rows"] == 5
    assert number["Web documents", "dropped", "duplicate"] == 2
    assert number["Images", "kept", "addresses"] == 2
    assert number["Token cap", "dropped"].to_dict() == {"above_cap": 1}
    assert "above_cap" not in number["Image contexts", "dropped"]
    assert number["De-duplication", "dropped"].to_dict() == {"similar_question": 1}
    assert (
        "malformed" not in number["Conversations per kind", "dropped"]
    )  # counted with the generated questions
    assert number["Captioning", "kept", "non_contextual"] == 3
    assert number["Q&A generation", "kept", "free_form"] == 6
    assert number["De-duplication", "kept", "free_form"] == 6  # one each, of two kinds
    assert number["Conversations per kind", "kept", "leaky_mix"] == 3
    figure, sheet = figures.new_sheet()
    pipeline.plot_pipeline(sheet, table)
    assert sheet.y > 100
    figures.trim_sheet(figure, sheet, note="Captions: m.")
    assert_readable(figure)
    shown = [line for text in sheet.axes.texts for line in text.get_text().split("\n")]
    assert {"1 Web documents", "8 Conversations per kind", "−1 too small", "3 leaky mix"} <= set(
        shown
    )
