"""Install what the image needs into an environment, with the versions and hashes of the lock.

The lock also names what only development needs; that is left out. Not here: building the wheel.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

NAME = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?==(\S+)")


def main(python: str, extras: list[str]) -> None:
    """Install the dependencies and some extras of the project in the current folder.

    Args:
        python: The interpreter of the environment.
        extras: Names of extras.
    """
    pins = read_lock(Path("requirements.lock").read_text(encoding="utf-8"))
    versions = [NAME.sub(r"\1==\2", block.split()[0]) for block in pins.values()]
    Path("constraints.txt").write_text("\n".join(versions), encoding="utf-8")
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = [project["dependencies"], *(project["optional-dependencies"][name] for name in extras)]
    needed = [requirement for part in parts for requirement in part]
    resolve = ["--dry-run", "--ignore-installed", "--constraint=constraints.txt", "--report=-"]
    report = json.loads(pip(python, *resolve, *needed))
    names = {canonical(item["metadata"]["name"]) for item in report["install"]} | {"setuptools"}
    requirements = "\n".join(pins[name] for name in sorted(names))
    Path("image.lock").write_text(requirements, encoding="utf-8")
    pip(python, "--require-hashes", "--no-deps", "--requirement=image.lock")


def read_lock(text: str) -> dict[str, str]:
    """Return the lines of a lock, version and hashes, by the name of the package."""
    blocks = (match[0] for match in re.finditer(r"^[\w.-].*(?:\n .*)*", text, re.MULTILINE))
    return {canonical(re.split(r"[=\[]", block)[0]): block for block in blocks}


def canonical(name: str) -> str:
    """Return a name as the lock spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(python: str, *arguments: str) -> str:
    """Run `pip install` for an environment and return what it prints."""
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-cache-dir"]
    command += ["--quiet", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","))
