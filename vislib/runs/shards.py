"""`map_shards`: one function over the parts of a table, each part written whole or not at all.

A part that is done leaves a mark; while the stage's key holds, a rerun takes it as done. Output
part k depends on input part k alone, so the number of workers never changes a byte.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa

from vislib.runs.progress import Progress
from vislib.runs.tables import Output
from vislib.runs.verbs import start_worker

ShardFunction = Callable[[Path, Output], None]


def map_shards(
    function: ShardFunction,
    shards: Sequence[Path],
    *,
    folder: Path,
    schemas: Mapping[str, pa.Schema],
    marks: Path,
    workers: int = 1,
    lock: Path | None = None,
) -> Counter[str]:
    """Run `function(part, output)` on every shard and return the sum of the outputs' counts.

    `function` must be importable (a module's function, or a `functools.partial` of one) when
    `workers` > 1. `marks` holds one file per shard that is done; workers hold `lock` (shared) and
    end with their parent.
    """
    marks.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    waiting = []  # what an earlier attempt has not finished
    for index, shard in enumerate(shards):
        mark = marks / f"{index:05d}.json"
        if mark.exists():
            counts.update(json.loads(mark.read_text(encoding="utf-8")))
        else:
            waiting.append((index, shard))
    work = partial(_run_shard, function, folder=folder, schemas=dict(schemas), marks=marks)
    with Progress(len(shards), "shards") as progress:
        progress.update(len(shards) - len(waiting))
        if workers == 1 or len(waiting) <= 1:
            for index, shard in waiting:
                counts.update(work(index, shard))
                progress.update()
            return counts
        start = partial(start_worker, os.getpid(), lock)
        with ProcessPoolExecutor(
            min(workers, len(waiting)), get_context("spawn"), initializer=start
        ) as pool:
            try:
                for future in as_completed(
                    [pool.submit(work, index, shard) for index, shard in waiting]
                ):
                    counts.update(future.result())
                    progress.update()
            except BaseException:
                pool.shutdown(
                    cancel_futures=True
                )  # the shards under way end, the others do not begin
                raise
    return counts


def _run_shard(
    function: ShardFunction,
    index: int,
    shard: Path,
    *,
    folder: Path,
    schemas: Mapping[str, pa.Schema],
    marks: Path,
) -> Counter[str]:
    with Output(folder, schemas, part=index) as output:
        function(shard, output)
    mark = marks / f"{index:05d}.json"
    mark.with_suffix(".tmp").write_text(json.dumps(output.counts, sort_keys=True), encoding="utf-8")
    os.replace(mark.with_suffix(".tmp"), mark)
    return output.counts
