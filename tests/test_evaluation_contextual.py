"""`vislib.evaluation.contextual`: the local benchmark as a task of lmms-eval."""

import io

import pyarrow.parquet as pq
import yaml
from PIL import Image

from tests.test_evaluation import ROUNDS, begin, evaluate, ground, told, write_model  # noqa: F401
from vislib.media.pixels import read_image


def test_the_task_for_lmms_eval_holds_the_pixels_that_training_sees_and_no_path(ground):  # noqa: F811
    model = write_model(ground, "base")
    run = begin([model])
    told(run, model, {"multiple_choice": "A"})
    evaluate(run)
    task = run.data / "task"
    questions = pq.read_table(task / "questions").to_pylist()
    assert [row["answer"] for row in questions] == [
        "A",
        "C",
    ] * 3  # neither free-form nor without a picture
    assert questions[0]["question"] == ROUNDS[0][1]
    for row in pq.read_table(task / "images").to_pylist():
        seen = Image.open(io.BytesIO(row["image"])).convert("RGB")
        assert (
            seen.tobytes()
            == read_image(ground / "03_images/data/files" / f"{row['image_id']}.jpg").tobytes()
        )
    text = (task / "vislib_contextual.yaml").read_text()
    assert str(ground.parents[1]) not in text
    plain = yaml.safe_load(text.replace("!function ", ""))
    assert (task / plain["dataset_kwargs"]["data_files"]["test"]).is_file()
    assert plain["generation_kwargs"]["max_new_tokens"] == run.params.max_answer_tokens_choice
    assert (task / f"{plain['doc_to_visual'].split('.')[0]}.py").is_file()
