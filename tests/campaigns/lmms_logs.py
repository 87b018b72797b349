"""Run by the Python of lmms-eval with an empty folder: its own tasks on a few made-up questions,
answered from a list.

`<task>.jsonl` there is what `--log_samples` writes, without what differs from run to run, and
`scores.json` what its own aggregation makes of them; `tests/lmms_logs` has copies. Pictures of even
questions are red, of odd ones green.
"""

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

KINDS = ("conv", "detail", "complex")
REPLIES = {
    "llava_in_the_wild": ["8 6\nThe second is vague.", "9 9\nEqual.", "I cannot say."],
    "mmvet": ["0.5", "1.0"],
}
UNKEPT = {"token_counts", "doc_hash", "input_media", *(f"gpt_eval_llava_{kind}" for kind in KINDS)}
PAIR = {
    "A": "red",
    "B": "green",
    "C": "blue",
    "D": "nan",
    "hint": "nan",
    "source": "x",
    "split": "dev",
    "category": "c",
}
VOTES = [*(["cat"] * 2), *(["dog"] * 8)]
TASKS: dict[str, tuple[str, list[dict], list[str]]] = {  # split, questions, answers
    "seedbench": (
        "test",
        [
            {
                "question": "Colour?",
                "choice_a": "red",
                "choice_b": "green",
                "choice_c": "blue",
                "choice_d": "grey",
                "answer": answer,
                "data_type": kind,
                "question_id": name,
            }
            for answer, kind, name in (
                ("B", "image", "1"),
                ("A", "image", "2"),
                ("C", "video", "v3"),
                ("B", "image", "4"),
            )
        ],
        ["B", "The answer is A.", "A. It is red", "But it is red"],
    ),
    "mmbench_en_dev_static": (
        "dev",
        [
            {**PAIR, "question": "Colour?", "answer": "B", "L2-category": "attribute", "index": 7},
            {
                **PAIR,
                "question": "And now?",
                "answer": "C",
                "L2-category": "relation",
                "index": 8,
                "hint": "Look.",
            },
            *(  # rotations of the first, of the second and of a third question
                {
                    **PAIR,
                    **dict(zip("ABC", options, strict=True)),
                    "question": question,
                    "L2-category": kind,
                    "answer": answer,
                    "index": index,
                }
                for options, question, kind, answer, index in (
                    (("blue", "red", "green"), "Colour?", "attribute", "C", 1_000_007),
                    (("green", "blue", "red"), "Colour?", "attribute", "A", 2_000_007),
                    (("blue", "red", "green"), "And now?", "relation", "A", 1_000_008),
                    (("red", "green", "blue"), "At last?", "relation", "A", 9),
                    (("green", "blue", "red"), "At last?", "relation", "C", 1_000_009),
                )
            ),
        ],
        [
            "B",
            "The sky is blue.",
            "(C)",
            "I choose A",
            "B",
            "Red is what I see",
            "The best option is C, not B",
        ],
    ),
    "mmmu_val": (
        "validation",
        [
            {
                "id": "validation_Art_1",
                "question": "<image 1> Who?",
                "options": "['Monet', 'Manet']",
                "answer": "B",
                "question_type": "multiple-choice",
            },
            {
                "id": "validation_Art_2",
                "question": "<image 1> How many?",
                "options": "[]",
                "answer": "1,200.50",
                "question_type": "open",
            },
            {
                "id": "validation_Music_3",
                "question": "<image 1> Which key?",
                "options": "[]",
                "answer": "D",
                "question_type": "open",
            },
        ],
        ["Hard to tell", "The answer is 1200.5", "So it is the key of d minor"],
    ),
    "ai2d": (
        "test",
        [
            {
                "question": "Which part?",
                "options": ["root", "stem", "leaf", "seed"],
                "answer": answer,
            }
            for answer in "12"
        ],
        ["B. stem", "The leaf"],
    ),
    "scienceqa_img": (
        "test",
        [
            {"question": "Which?", "choices": ["north", "south"], "answer": 1, "hint": hint}
            for hint in ("", "A map.")
        ],
        ["B.", "The answer is B"],
    ),
    "llava_in_the_wild": (
        "train",
        [
            {
                "question": f"What is it, {kind}?",
                "question_id": n,
                "category": kind,
                "gpt_answer": "A boat.",
                "caption": "A boat on a lake.",
            }
            for n, kind in enumerate(KINDS)
        ],
        ["A ship.", "A small boat.", "Water."],
    ),
    "mme": (
        "test",
        [
            {
                "question_id": f"{kind}/{name}.png",
                "question": f"Is it a {word}? Please answer yes or no.",
                "answer": answer,
                "category": kind,
            }
            for kind, name in (
                ("count", "1"),
                ("count", "2"),
                ("color", "1"),
                ("code_reasoning", "1"),
            )
            for word, answer in (("dog", "Yes"), ("cat", "No"))
        ],
        ["Yes", "No.", "Yes", "Yes, it is", "No", "No", "Yes", "No"],
    ),
    "pope": (
        "test",
        [
            {"question_id": word, "question": "Is there a dog?", "answer": word}
            for word in ("yes", "no")
        ],
        ["Yes", "No, there is none"],
    ),
    "gqa": (
        "testdev",
        [{"question": "What colour?", "answer": "red"} for _ in range(2)],
        ["Red.", "blue"],
    ),
    "textvqa_val": (
        "validation",
        [
            {
                "question": "what is written?",
                "question_id": n,
                "answers": VOTES,
                "ocr_tokens": ["DOG"],
            }
            for n in range(2)
        ],
        ["dog", "cat"],
    ),
    "vqav2_val": (
        "validation",
        [
            {
                "question": "What animal?",
                "question_id": n,
                "answers": [{"answer": v, "answer_id": i} for i, v in enumerate(VOTES)],
            }
            for n in range(2)
        ],
        ["dog", "A cat"],
    ),
    "mmvet": (
        "test",
        [
            {
                "question_id": f"v1_{n}",
                "question": "What is x?",
                "answer": "-1 <AND> -5",
                "capability": "ocr,math",
            }
            for n in range(2)
        ],
        ["x = -1", "x = -1 or -5"],
    ),
}


def serve_judge() -> None:
    """A judge of the OpenAI protocol on loopback that says what `REPLIES` holds, task after
    task.
    """
    replies = iter([reply for name in ("llava_in_the_wild", "mmvet") for reply in REPLIES[name]])

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            message = {"role": "assistant", "content": next(replies)}
            body = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "a-judge",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    judge = {"OPENAI_API_URL": f"http://127.0.0.1:{server.server_port}/v1", "OPENAI_API_KEY": "any"}
    os.environ.update(judge, MODEL_VERSION="a-judge", API_TYPE="openai")


def write_tasks(folder: Path) -> None:
    """The harness's own tasks, each on a Parquet file of ours."""
    import datasets
    import lmms_eval.tasks
    import PIL.Image

    home = Path(lmms_eval.tasks.__file__).parent
    for task, (split, rows, _) in TASKS.items():
        (original,) = (
            (p for p in home.rglob(f"{task}.yaml") if p.stem == task)
            if task != "llava_in_the_wild"
            else (home / "llava-in-the-wild/llava-in-the-wild.yaml",)
        )
        pictures = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
        name = "image_1" if task == "mmmu_val" else "image"
        shown = [[picture] if task == "seedbench" else picture for picture in pictures]
        whole = [{**row, name: shown[n % 2]} for n, row in enumerate(rows)]
        datasets.Dataset.from_list(whole).to_parquet(folder / f"{task}.parquet")
        lines = [
            f"include: {original}",
            f"task: ours_{task}",
            "dataset_path: parquet",
            "dataset_name: null",
            f"test_split: {split}",
            f"dataset_kwargs: {{data_files: {{{split}: {folder / task}.parquet}}}}",
            *(["process_docs: null"] if task == "gqa" else []),
        ]
        (folder / f"ours_{task}.yaml").write_text("\n".join(lines) + "\n")


def main(folder: Path) -> None:
    serve_judge()
    write_tasks(folder)
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.loggers import EvaluationTracker
    from lmms_eval.tasks import TaskManager

    class Told(lmms):
        def generate_until(self, requests):
            return [TASKS[r.args[4].removeprefix("ours_")][2][r.args[3]] for r in requests]

        loglikelihood = generate_until_multi_round = generate_until

    scores = {}
    for task in TASKS:
        done = simple_evaluate(
            model=Told(),
            tasks=[f"ours_{task}"],
            log_samples=True,
            process_docs_parallel=1,
            task_manager=TaskManager(include_path=str(folder), model_name="told"),
            cli_args=__import__("argparse").Namespace(
                output_path=str(folder), process_with_media=False
            ),
        )
        scores[task] = {
            name: value
            for name, value in done["results"][f"ours_{task}"].items()
            if "stderr" not in name
        }
        tracker = EvaluationTracker(output_path=str(folder / "out"))
        tracker.general_config_tracker.model_name_sanitized = "told"
        tracker.date_id = "now"
        tracker.save_results_samples(task_name=task, samples=done["samples"][f"ours_{task}"])
        lines = (folder / f"out/told/now_samples_{task}.jsonl").read_text().split("\n")
        kept = [
            {k: v for k, v in json.loads(line).items() if k not in UNKEPT} for line in lines if line
        ]
        for sample in kept:
            sample.get("gpt_eval_llava_all", {}).pop(
                "content", None
            )  # the harness's own long prompt
        (folder / f"{task}.jsonl").write_text(
            "".join(json.dumps(row, sort_keys=True) + "\n" for row in kept)
        )
    (folder / "scores.json").write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
