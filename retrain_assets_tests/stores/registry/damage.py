"""Damage model files and try each in a process of its own, as the check of a model file does.

What is damaged is the library's native file; of scikit-learn, a file within the skops file.

Usage: `python -m retrain_assets_tests.stores.registry.damage FOLDER FIRST LAST`, where FOLDER has
`model.skops`, `example.parquet` and `rows.parquet`. Prints a line of JSON for each damaged file.
Libraries are imported before a child is forked and used in children only, since some hold locks.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from random import Random
from zipfile import ZipFile

import catboost  # noqa: F401 imported once
import lightgbm  # noqa: F401
import polars as pl
import skops.io
import xgboost  # noqa: F401

from retrain_assets.domain.model.estimator import predict
from retrain_assets.stores.registry import model_check
from retrain_assets.stores.registry.model_file import TRUSTED_TYPES

CPU_SECONDS = 5
NUMBERS = ["-1", "0", "17", "999999999", "2147483647", "-2147483648", "9" * 20]


def damage(content: bytes, random: Random) -> bytes:
    """Cut, flip bits, repeat a part, or put an absurd number."""
    kind, place = random.choice("cfnr"), random.randrange(len(content))
    if kind == "c":
        return content[:place]
    if kind == "r":
        start = random.randrange(len(content))
        return content[:place] + content[start : start + random.randrange(1, 200)] + content[place:]
    if kind == "n" and content.isascii():
        number = random.choice([*re.finditer(rb"-?\d+", content[: len(content) // 2])])
        value = random.choice(NUMBERS).encode()
        return content[: number.start()] + value + content[number.end() :]
    damaged = bytearray(content)
    if kind == "n":
        value = int(random.choice(NUMBERS)) % 2**32
        damaged[place : place + 4] = value.to_bytes(4, random.choice(["little", "big"]))
        return bytes(damaged[: len(content)])
    for _ in range(random.choice([1, 1, 2, 8])):
        damaged[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def damage_model(content: bytes, random: Random) -> bytes:
    """Damage what a skops file holds; the file itself stays one that can be read."""
    pipeline = skops.io.loads(content, trusted=list(TRUSTED_TYPES))
    if hasattr(pipeline[-1], "native_"):
        pipeline[-1].native_ = damage(pipeline[-1].native_, random)
        return bytes(skops.io.dumps(pipeline))
    file = BytesIO()
    with ZipFile(BytesIO(content)) as whole, ZipFile(file, "w") as damaged:
        chosen = random.choice(whole.namelist())
        for name in whole.namelist():
            part = whole.read(name)
            damaged.writestr(name, damage(part, random) if name == chosen else part)
    return file.getvalue()


def try_file(folder: Path, content: bytes) -> int:
    """Check a file, and let it predict more rows if it passes."""
    path, example = folder / "damaged.skops", folder / "example.parquet"
    path.write_bytes(content)
    digest = sha256(content).hexdigest()
    code = model_check.main([str(path), digest, str(example), "binary"])
    if code == 0:
        rows = pl.read_parquet(folder / "rows.parquet")
        predict(skops.io.loads(content, trusted=list(TRUSTED_TYPES)), "binary", rows)
        print("predicted", flush=True)  # noqa: T201
    return code


def main(folder: Path, first: int, last: int) -> None:
    content = (folder / "model.skops").read_bytes()
    for seed in range(first, last):
        output = folder / "output"
        child = os.fork()
        if child == 0:
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            os._exit(try_file(folder, damage_model(content, Random(seed))))  # noqa: S311
        _, status = os.waitpid(child, 0)
        text = output.read_text(errors="replace")
        line = {"seed": seed, "code": os.waitstatus_to_exitcode(status), "text": text[-300:]}
        print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
