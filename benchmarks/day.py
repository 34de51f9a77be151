"""What one new day costs: a day of flights and weather lands beside a daemon that runs.

A project of its own has the demo's datasets and its model `flight_delay`; of several models, the
others are for the busiest destinations (`for_each`), or copies of it with a YAML each (`--yamls`).
Earlier days are ingested and trained on before the measurement. Two days land one after the other,
and the real daemon and code server with the shipped settings work until each model was monitored
and its policy was asked; the second day is measured. The plain script does the same day for one
model: read, judge, store, join, profile, load the model, predict, compare.

    python benchmarks/day.py [--models 1 20] [--days 80] [--yamls]

CPU seconds are those of the daemon, its code server and all runs, without what they use while
nothing lands. Not here: the first days, and a day that ends in a retraining.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import psutil
import yaml

HERE = Path(__file__).parent
SPECS = HERE.parent / "retrain_assets" / "defs" / "flight_delay" / "defs.yaml"
SETTLE_SECONDS, IDLE_SECONDS, LONGEST_SECONDS = 15.0, 40.0, 1800.0
DESTINATIONS = "ATL ORD LAX BOS MCO CLT SFO FLL MIA DCA DTW DFW RDU TPA DEN IAH MSP PBI BNA LAS"
SETTINGS = 'directory_type = "project"\n[project]\nroot_module = "days"\n'
DEFINITIONS = """
from pathlib import Path
import dagster as dg
from retrain_assets.definitions import build_defs
@dg.definitions
def defs():
    return build_defs(project=Path(__file__).parent)
"""


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", type=int, nargs="*", default=[1, 20])
    parser.add_argument("--days", type=int, default=80)
    parser.add_argument("--yamls", action="store_true", help="a YAML for each model")
    parser.add_argument("--script", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare, options.days)
    elif options.script:
        run_script(options.script)
    else:
        print(json.dumps({"script": measure_script(options.days)}), flush=True)
        for count in options.models:
            values = measure(count, options.days, apart=options.yamls)
            print(json.dumps({"models": count, "yamls": options.yamls, **values}), flush=True)


def measure_script(days: int) -> dict[str, float]:
    """Train by the plain script on earlier days, then measure its new day."""
    with TemporaryDirectory(prefix="retrain-day-") as folder:
        from retrain_assets.demo.flights import Flights

        root, flights = Path(folder), Flights.load()
        landing, new = root / "landing", root / "new" / "landing"
        flights.drop(landing, flights.days[:days])
        flights.drop_planes(landing)
        command = [sys.executable, HERE / "bare.py", landing, root, SPECS]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        flights.drop(new, flights.days[days : days + 1])
        started, before = time.perf_counter(), sum(os.times()[2:4])
        command = [sys.executable, __file__, "--script", root]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        wall, cpu = time.perf_counter() - started, sum(os.times()[2:4]) - before
    return {"cpu_seconds": round(cpu, 2), "wall_seconds": round(wall, 1), **json.loads(output)}


def run_script(root: Path) -> None:
    """Do the new day by polars, deltalake and MLflow alone, and print the decision."""
    import bare
    import mlflow
    import polars as pl
    from plain import DAY, TARGET, build_features, read, split

    specs = {
        document["attributes"]["name"]: document["attributes"]
        for document in yaml.safe_load_all(SPECS.read_text(encoding="utf-8"))
    }
    model, tables = specs["flight_delay"], {}

    def store(rows: pl.DataFrame, name: str, mode: Any = "append") -> None:
        rows.write_delta(root / "delta" / name, mode=mode)

    for name in ("flights", "weather"):
        stored = pl.scan_delta(root / "delta" / name)
        accepted, refused = split(read(root / "new" / "landing", specs[name]), specs[name])
        store(accepted.select(stored.collect_schema().names()), name)
        store(refused, f"{name}_refused_new", "overwrite")
        tables[name] = accepted
    weather = pl.scan_delta(root / "delta" / "weather")
    newest = weather.select(pl.col(DAY).unique().top_k(2)).collect()[DAY]
    tables["weather"] = weather.filter(pl.col(DAY).is_in(newest.implode())).collect()
    tables["planes"] = pl.read_delta(root / "delta" / "planes")
    features = build_features(tables, model)
    store(features, "features")
    history = pl.read_delta(root / "delta" / "features")
    days, windows = history[DAY].unique().sort().to_list(), model["windows"]
    train = days[-windows["train"] - windows["holdout"] - 1 : -windows["holdout"] - 1]
    drifted = bare.drift(bare.build_profile(history, train), train, days[-windows["current"] :])
    store(drifted, "drift", "overwrite")
    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    pipeline = mlflow.sklearn.load_model("models:/flight_delay@candidate")
    labelled = features.drop_nulls(TARGET)
    values = labelled.drop(DAY, "_key", TARGET)
    output = pipeline.predict_proba(values)[:, 1]
    store(labelled.select(DAY, "_key", TARGET).with_columns(output=output), "predictions")
    loss = float(bare.log_loss(labelled[TARGET].to_numpy(), output))
    share = (drifted["psi"] > model["triggers"]["data_drift"]["threshold"]).mean()
    wanted = share > model["triggers"]["data_drift"]["share"]
    print(json.dumps({"log_loss": round(loss, 4), "retraining_wanted": bool(wanted)}))


def write_project(root: Path, count: int, *, apart: bool) -> None:
    """Write a project with the demo's datasets and models, and the shipped dagster.yaml."""
    package = root / "src" / "days"
    (package / "defs" / "flights").mkdir(parents=True)
    (root / "dg.toml").write_text(SETTINGS, encoding="utf-8")
    (package / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    # As text, since `on` is a boolean for other readers of YAML.
    text = SPECS.read_text(encoding="utf-8")
    if apart:
        start = text.index("type: retrain_assets.RetrainedModel")
        copies = (f"name: flight_delay_{number}\n" for number in range(1, count))
        texts = (text[start:].replace("name: flight_delay\n", name) for name in copies)
        text = "\n---\n".join([text, *texts])
    elif count > 1:
        values = ", ".join(DESTINATIONS.split()[: count - 1])
        each = f"for_each: {{column: dest, values: [{values}], min_rows: 1}}"
        text = text.replace("name: flight_delay\n", f"name: flight_delay\n  {each}\n")
    (package / "defs" / "flights" / "defs.yaml").write_text(text, encoding="utf-8")
    settings = (HERE.parent / "dagster.yaml").read_text(encoding="utf-8")
    settings = settings.replace("data/dagster", str(root / "data" / "dagster"))
    (root / "dagster.yaml").write_text(settings, encoding="utf-8")


def prepare(root: Path, days: int) -> None:
    """Ingest earlier days, monitor them and train every model, in this process."""
    import dagster as dg

    from retrain_assets.definitions import build_defs
    from retrain_assets.demo.flights import Flights
    from retrain_assets.orchestration.dagster_internals.ticks import InProcessDaemon

    flights, landing = Flights.load(), root / "data" / "landing"
    flights.drop(landing, flights.days[:days])
    flights.drop_planes(landing)
    with dg.DagsterInstance.from_config(str(root)) as instance:
        definitions = build_defs(project=root / "src" / "days")
        [*InProcessDaemon(definitions, instance, "days.definitions", "days").settle()]


@dataclass
class Watch:
    """What some processes and those below them have used, also those that have ended.

    Args:
        processes: The first of them.
        seen: All of them so far, each by its number and start.
    """

    processes: list[psutil.Process]
    seen: set[tuple[int, float]] = field(default_factory=set)
    ended: Event = field(default_factory=Event)

    def list_all(self) -> list[psutil.Process]:
        """Return the processes that run."""
        parts = [[process, *process.children(recursive=True)] for process in self.processes]
        return [process for part in parts for process in part]

    def cpu_seconds(self) -> float:
        """Return CPU seconds of all that run, with those of the children they have waited for."""
        seconds = 0.0
        for process in self.list_all():
            try:
                self.seen.add((process.pid, process.create_time()))
                seconds += sum(process.cpu_times()[:4])
            except psutil.NoSuchProcess:  # its parent has just waited for it
                continue
        return seconds

    def look(self) -> None:
        """Look for new processes until the watch ends."""
        while not self.ended.wait(0.2):
            self.cpu_seconds()


@contextmanager
def daemon(root: Path, environment: dict[str, str]) -> Iterator[Watch]:
    """Start a code server and the daemon, as compose.yaml does, and end them and all they start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = {"host": "127.0.0.1", "port": port, "location_name": "days"}
    workspace = yaml.safe_dump({"load_from": [{"grpc_server": server}]})
    (root / "workspace.yaml").write_text(workspace, encoding="utf-8")
    folder, where = Path(sys.executable).parent, ("--host", "127.0.0.1", "--port", str(port))
    commands = [
        [folder / "dagster", "code-server", "start", *where, "--module-name", "days.definitions"],
        [folder / "dagster-daemon", "run", "-w", "workspace.yaml"],
    ]
    with (root / "daemon.log").open("wb") as log:
        started = []
        for command in commands:
            options = {"cwd": root, "env": environment, "stdout": log, "stderr": log}
            started.append(subprocess.Popen(command, start_new_session=True, **options))
            time.sleep(20)
        watch = Watch([psutil.Process(process.pid) for process in started])
        looking = Thread(target=watch.look)
        looking.start()
        try:
            yield watch
        finally:
            watch.ended.set()
            looking.join()
            for process in reversed(watch.list_all()):
                process.kill()
            for process in started:
                process.wait(60)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once a condition holds.

    Raises:
        TimeoutError: It still does not.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(1)
    raise TimeoutError("the day is not done: see daemon.log")


def measure(count: int, days: int, *, apart: bool = False) -> dict[str, Any]:
    """Let a day land under the daemon, and return what that took until the policies were asked."""
    with TemporaryDirectory(prefix="retrain-day-") as folder:
        root = Path(folder)
        write_project(root, count, apart=apart)
        paths = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])
        places = {"DAGSTER_HOME": folder, "RETRAIN_STORAGE": str(root / "data")}
        environment = os.environ | places | {"PYTHONPATH": paths}
        command = [sys.executable, __file__, "--prepare", folder, "--days", str(days)]
        subprocess.run(command, check=True, env=environment, cwd=root, stdout=subprocess.DEVNULL)
        with daemon(root, environment) as watch:
            return measure_day(root, watch, days)


def measure_day(root: Path, watch: Watch, days: int) -> dict[str, Any]:
    """Let two days land once the daemon is idle, and measure the second."""
    import dagster as dg

    from retrain_assets.demo.flights import Flights

    flights, landing = Flights.load(), root / "data" / "landing"
    with dg.DagsterInstance.from_config(str(root)) as instance:

        def has_asked(moment: float) -> bool:
            """Tell if each policy was asked after a moment, and asked for nothing."""
            states = instance.all_instigator_state()
            policies = [s for s in states if s.instigator_name.endswith("_retrain_wanted")]
            parts = [(s.instigator_origin_id, s.selector_id) for s in policies]
            ticks = [instance.get_ticks(*part, limit=1) for part in parts]
            return bool(ticks) and all(
                tick and tick[0].timestamp > moment and tick[0].status.value == "SKIPPED"
                for tick in ticks
            )

        def land(day: str) -> list[dg.DagsterRun]:
            """Let a day land, wait until it is done, and return its runs."""
            before = {run.run_id for run in instance.get_runs()}
            flights.drop(landing, [day])

            def is_done() -> bool:
                records = [
                    r for r in instance.get_run_records() if r.dagster_run.run_id not in before
                ]
                jobs = {r.dagster_run.job_name for r in records}
                monitored = {"flight_delay_monitor", "flights_monitor"} & jobs
                ended = [record.end_time or time.time() for record in records]
                return bool(monitored) and has_asked(max(ended))

            wait_until(is_done)
            return [run for run in instance.get_runs() if run.run_id not in before]

        wait_until(lambda: has_asked(0))
        land(flights.days[days])
        time.sleep(SETTLE_SECONDS)
        start = watch.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        idle = (watch.cpu_seconds() - start) / IDLE_SECONDS
        start, started, seen = watch.cpu_seconds(), time.time(), len(watch.seen)
        runs = land(flights.days[days + 1])
        wall, cpu = time.time() - started, watch.cpu_seconds() - start
    return {
        "runs": len(runs),
        "succeeded": sum(run.is_success for run in runs),
        "processes": len(watch.seen) - seen,
        "cpu_seconds": round(cpu - idle * wall, 2),
        "wall_seconds": round(wall, 1),
        "idle_cpu_share": round(idle, 3),
    }


if __name__ == "__main__":
    main()
