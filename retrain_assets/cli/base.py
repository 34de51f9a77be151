"""What all commands share: the project they work on, how they fail and what they print.

Not here: any command.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, reduce, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import click
import dagster as dg
from click import shell_completion
from rich.console import Console
from sqlalchemy.exc import OperationalError

from retrain_assets import definitions
from retrain_assets.domain.json_text import write_json
from retrain_assets.errors import mask_password
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.dagster_internals.event_log import BatchingSqliteStorage
from retrain_assets.orchestration.dagster_internals.ticks import InProcessDaemon
from retrain_assets.specs.base import SpecError
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.database import VARIABLE as DATABASE
from retrain_assets.stores.database import outage
from retrain_assets.stores.storage import Storage, project_root, storage_from

SETTINGS = "dagster.yaml"
COMPLETIONS = {
    "bash": ".local/share/bash-completion/completions/retrain",
    "zsh": ".zfunc/_retrain",
    "fish": ".config/fish/completions/retrain.fish",
}
COLOURS = {"promote": "green", "reject": "red", "hold": "yellow", "rollback": "magenta"}
EMPTY: Mapping[str, Any] = {}
T = TypeVar("T")


def install_completion(context: click.Context, _: click.Parameter, value: bool) -> None:
    """Write the completion of commands to where the user's shell looks for it, and exit.

    Raises:
        ClickException: The shell is none of bash, zsh and fish.
    """
    if not value or context.resilient_parsing:
        return
    shell = Path(os.environ.get("SHELL", "")).name
    shell_class = shell_completion.get_completion_class(shell)
    if shell_class is None or shell not in COMPLETIONS:
        raise click.ClickException(f"SHELL is {shell or 'not set'}: use {', '.join(COMPLETIONS)}")
    source = shell_class(context.command, {}, "retrain", "_RETRAIN_COMPLETE").source()
    path = Path.home() / COMPLETIONS[shell]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    hint = f"; add to ~/.zshrc: fpath+=({path.parent}); autoload -Uz compinit; compinit"
    click.echo(f"{path} completes `retrain` in new shells{hint if shell == 'zsh' else ''}")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="retrain-assets")
@click.option(
    "--install-completion",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=install_completion,
    help="Let the shell complete commands and options, and exit.",
)
def main() -> None:
    """Keep tabular models fresh."""
    one_line(_prepare)()


def _prepare() -> None:
    """Go to the project and choose Dagster's folder, before any command."""
    root = project_root(Path.cwd())
    context = click.get_current_context()
    context.obj = Path.cwd()
    for category in (dg.BetaWarning, dg.PreviewWarning):  # of what Dagster itself loads
        warnings.simplefilter("ignore", category)
    if os.environ.get("NO_COLOR"):
        context.color = False
    # Relative paths of dagster.yaml follow the current directory.
    context.call_on_close(partial(os.chdir, Path.cwd()))
    os.chdir(root)
    if "DAGSTER_HOME" not in os.environ:
        home = root if (root / SETTINGS).exists() else storage().work / "dagster"
        os.environ["DAGSTER_HOME"] = str(home)
        context.call_on_close(partial(os.environ.pop, "DAGSTER_HOME", None))


def command(
    run: Callable[..., None], group: click.Group = main, name: str | None = None
) -> click.Command:
    """Make a function a command whose errors are one line and which takes `--json`."""

    @wraps(run)
    def without_json(*args: Any, as_json: bool, **kwargs: Any) -> None:  # noqa: ARG001 see `show`
        one_line(run)(*args, **kwargs)

    entry = group.command(name)(without_json)
    option = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON and nothing else.")
    entry.params.append(option)
    return entry


def one_line(run: Callable[..., None]) -> Callable[..., None]:
    """Turn errors that people can act on into a line; others keep their traceback."""

    @wraps(run)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            run(*args, **kwargs)
        except (click.Abort, click.exceptions.Exit):  # RuntimeErrors without a text
            raise
        except Exception as error:
            if (text := _describe(error)) is None:
                raise
            uris = (os.environ.get(name, "") for name in (DATABASE, "MLFLOW_TRACKING_URI"))
            raise click.ClickException(reduce(mask_password, uris, text)) from error

    return wrapped


def _describe(error: Exception) -> str | None:
    """Return what a person can act on; None for an error that needs its traceback."""
    if (answer := outage(error)) is not None:
        return (
            f"PostgreSQL: {answer}. Nothing that was stored is lost. When it answers, look at "
            "`retrain status MODEL` before you repeat the command; sensors repeat their work by "
            "themselves"
        )
    if isinstance(error, OperationalError):
        return f"Dagster's database: {error.orig}"
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    # Dagster wraps a mistake in the YAML in a drawing of the whole project.
    for spec_error in (error, error.__cause__):
        if isinstance(spec_error, SpecError):  # a line for each mistake
            return str(spec_error)
    is_sentence = isinstance(error, (ValueError, RuntimeError, LookupError))
    return " ".join(str(error).split()) if is_sentence else None


def storage() -> Storage:
    """Return the storage that the environment names, by default `data/` of the project."""
    return storage_from(os.environ, Path.cwd())


def ask(statement: str) -> None:
    """Go on if the person at the terminal agrees.

    Raises:
        ValueError: No person is at a terminal.
    """
    if not sys.stdin.isatty():
        raise ValueError(f"{statement}: there is no terminal to confirm it, so say --yes")
    click.confirm(f"{statement}. Go on?", abort=True, err=True)


def start_folder() -> Path:
    """Return the folder in which the command was called; relative paths start from it."""
    return Path(click.get_current_context().find_root().obj)


def is_json() -> bool:
    """Return whether the command prints JSON."""
    return bool(click.get_current_context().params["as_json"])


def show(value: object, text: str) -> None:
    """Print a result: the value as JSON with `--json`, else the text.

    A figure that is NaN or infinite is null, because JSON has no word for it.
    """
    if is_json():
        text = write_json(json.loads(json.dumps(value, default=str)), indent=2)
    click.echo(text)


def decision_lines(rows: list[dict[str, Any]]) -> str:
    """Return two lines for each decision: the action, and its reason."""
    width = max((len(row["model"]) for row in rows), default=0)
    lines = []
    for row in rows:
        action, model = f"{row['action']:<8}", f"{row['model']:<{width}}"
        head = f"{row['as_of']}  {model}  {action}  version {row['version']}"
        styled = click.style(head, fg=COLOURS.get(row["action"]), bold=True)
        causes = f"  because of {', '.join(row['causes'])}" if row["causes"] else ""
        lines += [f"{styled}{causes}", f"{'':12}{row['reason']}"]
    return "\n".join(lines)


def models() -> dict[str, Model]:
    """Return the project's models by name."""
    return definitions.models(location().folder)


def datasets() -> dict[str, DatasetSpec]:
    """Return the project's datasets by name."""
    return definitions.datasets(location().folder)


def get_model(name: str) -> Model:
    """Return the model of a name; raises as `get`."""
    return get("model", models(), name)


def open_model(name: str) -> ModelState:
    """Return the state of a model; raises as `get`."""
    return get_model(name).state(storage())


def get(noun: str, things: Mapping[str, T], name: str) -> T:
    """Return the thing of a name.

    Raises:
        LookupError: Nothing has that name; the message lists all names.
    """
    if name not in things:
        raise LookupError(f"no {noun} named {name!r}; there are {', '.join(sorted(things))}")
    return things[name]


def dagster_home() -> Path:
    """Return the folder of Dagster's settings, which are written if nobody has chosen a folder.

    Dagster's own settings would spread its state over the project and store each event alone.
    """
    home = Path(os.environ["DAGSTER_HOME"])
    if home == storage().work / "dagster" and write_settings(home):
        click.echo(f"DAGSTER_HOME is not set: Dagster records runs in {home}", err=True)
    return home


def write_settings(home: Path) -> bool:
    """Write the settings of Dagster into a folder, and tell if they were missing."""
    if (home / SETTINGS).exists():
        return False
    home.mkdir(parents=True, exist_ok=True)
    store, base = BatchingSqliteStorage, {"base_dir": str(home)}
    config = {"module": store.__module__, "class": store.__name__, "config": base}
    settings = {"telemetry": {"enabled": False}, "storage": {"custom": config}}
    (home / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return True


def open_instance() -> dg.DagsterInstance:
    """Open Dagster's instance."""
    return dg.DagsterInstance.from_config(str(dagster_home()))


def execute(
    job: str, tags: Mapping[str, str] = EMPTY, run_config: Mapping[str, Any] = EMPTY
) -> str:
    """Execute a job in this process, recorded where the UI shows it, and return the run's id."""
    with open_daemon() as daemon, Console(stderr=True).status(f"{job} …"):
        return daemon.execute(job, tags, run_config)


@contextmanager
def open_daemon() -> Iterator[InProcessDaemon]:
    """Open what ticks the project's sensors and executes its jobs in this process."""
    place = location()
    with open_instance() as instance:
        loaded = definitions.build_defs(project=place.folder)
        yield InProcessDaemon(loaded, instance, place.module, place.name)


def _names_the_demo(start: Path) -> bool:
    """Tell if a workspace at or above a folder, as in the image, names these definitions."""
    place = Path.cwd() / "workspace.yaml"
    has_workspace = start.is_relative_to(place.parent) and place.exists()
    return has_workspace and definitions.Location.module in place.read_text(encoding="utf-8")


def location() -> definitions.Location:
    """Return the Dagster project at or above the start folder; outside of any, the demo's.

    Raises:
        LookupError: There is no project, and no workspace names the demo, which was not run.
    """
    start, notes = start_folder(), click.get_current_context().meta
    place = definitions.location_at(start)
    if place == definitions.Location():
        if not (_names_the_demo(start) or "flights" in storage().landing_place.folders()):
            raise LookupError(
                f"no Dagster project in {start} or above it: go to the folder with its dg.toml or "
                "pyproject.toml, or try `retrain demo`"
            )
        if not notes.get("demo"):
            click.echo(
                f"no Dagster project in {start} or above it: this is the demo, whose data are in "
                f"{storage().root}",
                err=True,
            )
        notes["demo"] = True
    elif find_spec(place.module.partition(".")[0]) is None:
        # `dg` finds a project that is not installed in these folders too.
        paths = [str(place.folder / "src"), str(place.folder)]
        sys.path[:0] = paths
        forget = partial(_forget, place.module.partition(".")[0], paths)
        click.get_current_context().find_root().call_on_close(forget)
    return place


def _forget(package: str, paths: list[str]) -> None:
    """Unload the package of a project, since the next one of this process may have its name."""
    sys.path[:] = [path for path in sys.path if path not in paths]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
