"""``make test-matrix``: the suite on every supported Python, with the oldest and the newest DSPy allowed.

Interpreters are looked for on the PATH and among pyenv's; one that is not there is named, and skipped.
Further arguments go to pytest.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
FOLDER = ROOT / "build" / "matrix"


def find(version: str) -> str | None:
    """An interpreter of that version."""
    found = shutil.which(f"python{version}")
    if found is not None and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
        return found
    for path in sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python"), reverse=True):
        return str(path)
    return None


def dspy_versions() -> dict[str, str]:
    """What to install for the oldest and the newest DSPy that pyproject.toml allows."""
    allowed = re.search(r'"dspy>=([\d.]+),(<[\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert allowed
    return {"oldest": f"dspy=={allowed[1]}.*", "newest": f"dspy>={allowed[1]},{allowed[2]}"}


def main() -> int:
    failed: list[str] = []
    for python in PYTHONS:
        interpreter = find(python)
        if interpreter is None:
            print(f"Python {python} is not here: NOT tested", flush=True)
            continue
        for age, requirement in dspy_versions().items():
            name = f"{python}-{age}"
            venv = FOLDER / name
            print(f"== Python {python}, {age} DSPy ({requirement})", flush=True)
            subprocess.run([interpreter, "-m", "venv", "--clear", str(venv)], check=True)
            pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--editable", f"{ROOT}[dev]", requirement], check=True, cwd=ROOT)
            run = [str(venv / "bin" / "python"), "-m", "pytest", "-q", *sys.argv[1:]]
            if subprocess.run(run, cwd=ROOT, check=False).returncode:
                failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all passed", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
