"""Where a run was made: git state, package versions, hardware, peak memory."""

import os
import platform
import re
import resource
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from vislib.runs.code import ROOT

_DIFF = 65_536  # characters kept: enough to redo an edit, and the record stays small


# Reads the checkout as it is: the filter that strips notebooks would start Python once for each of
# them.
_GIT = (
    "git",
    "--no-optional-locks",
    "-C",
    str(ROOT),
    "-c",
    "filter.nbstripout.clean=",
    "-c",
    "filter.nbstripout.required=false",
)


def git_state() -> dict[str, Any]:
    """Commit of the checkout, changed and untracked files, and the diff, cut at 64 KiB; or nothing.

    The diff leaves notebooks out, since the executed one stands beside the record.
    """
    commit = output(*_GIT, "rev-parse", "HEAD").strip()
    changed = output(*_GIT, "status", "--porcelain").splitlines() if commit else []
    diff = output(*_GIT, "diff", "HEAD", "--", ".", ":(exclude)*.ipynb") if changed else ""
    return {"commit": commit, "dirty": bool(changed), "changed": changed, "diff": diff[:_DIFF]}


def output(*command: str) -> str:
    """What a program prints; nothing if it is not there. Names and files may hold any bytes."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


@cache
def pinned_versions() -> dict[str, str]:
    """Installed versions of the packages that requirements.txt names ('' when one is missing)."""
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    installed = {_plain(name): version for name, version in all_versions().items()}
    names = re.findall(r"^([A-Za-z][\w.-]*)", pinned, re.MULTILINE)
    return {name: installed.get(_plain(name), "") for name in names}


def all_versions() -> dict[str, str]:
    """Every installed distribution and its version, sorted by name."""
    found = dict[str, str]()
    for distribution in metadata.distributions():
        # two lines of it: to parse the whole message, with its description, takes ten times as
        # long, at every start of a stage
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        name, version = (re.search(rf"^{key}: *(.+)", text, re.M) for key in ("Name", "Version"))
        if name and version:
            found.setdefault(name[1].strip(), version[1].strip())
    return dict(sorted(found.items()))


def _plain(name: str) -> str:
    """A distribution's name as all its spellings share it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hardware() -> dict[str, Any]:
    """Machine, processors, memory in GiB, and the GPUs that nvidia-smi lists."""
    query = "--query-gpu=name,memory.total", "--format=csv,noheader"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpus": output("nvidia-smi", *query).splitlines(),
    }


def peak_memory_mib() -> float:
    """Largest resident size of this process or of one of its ended children, in MiB."""
    unit = 1024 if platform.system() == "Linux" else 1024**2
    own, children = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held before exec; this does not
        own = int(re.findall(r"VmHWM:\s+(\d+)", status.read_text(encoding="ascii"))[0])
    return round(max(own, children) / unit, 1)


def relative_to_root(path: Path) -> str:
    """`path` as a text without this machine's folders where it lies inside the project."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
