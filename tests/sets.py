"""Parameter sets that tests make from the sample set, and what two runs are compared by."""

from pathlib import Path

import yaml

from vislib.runs.yaml_files import write_parameters

ROOT = Path(__file__).resolve().parents[1]


def variation(folder: Path, *, only: str = "", **changes: dict) -> Path:
    """The sample set with changed parameters, as `variation(folder, **{"01_documents": {"limit":
    5}})`.

    `only`: beginnings of file names; variants then take part if one of these holds a dot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((ROOT / "params/sample").glob("*.yaml")):
        if file.stem.startswith(tuple(only.split() or [""])) and (
            "." not in file.stem or not only or "." in only
        ):
            values = yaml.safe_load(file.read_text()) | {"run_dir": f"runs/{folder.name}"}
            write_parameters(folder / file.name, values | changes.get(file.stem, {}))
    return folder


def five_documents(folder: Path) -> Path:
    """Five documents of the sample through every stage."""
    return variation(folder, **{"01_documents": {"limit": 5}, "08_merging": {"test_fraction": 0.0}})


def result_bytes(run: Path) -> dict[str, bytes]:
    """Every file under the `data/` and `figures/` of a run's stages."""
    folders = [
        p
        for p in sorted(run.glob("[0-9][0-9]_*"))
        if not p.name.endswith((".partial", ".previous"))
    ]
    files = [
        f
        for p in folders
        for kind in ("data", "figures")
        for f in sorted((p / kind).rglob("*"))
        if f.is_file()
    ]
    return {str(f.relative_to(run)): f.read_bytes() for f in files}
