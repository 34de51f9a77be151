"""`dg scaffold defs retrain_assets.RetrainedModel NAME --sample FILE --target COLUMN`.

Not here: guessing (`domain/start`), and the command `retrain new`, which does the same.
"""

import os
import sys
from pathlib import Path

import click
import dagster as dg
from dagster.components.component_scaffolding import scaffold_component
from pydantic import BaseModel

from retrain_assets.stores.storage import storage_from


class SampleParams(BaseModel):
    """The options of the command.

    Args:
        sample: A file, a folder of files, or a Delta table.
        target: The column to predict, or SQL.
        time: The column that says when a row happened.
        dataset: Name of the dataset; by default that of the file.
    """

    sample: str | None = None
    target: str | None = None
    time: str | None = None
    dataset: str | None = None


class ModelScaffolder(dg.Scaffolder[SampleParams]):
    """Writes the YAML of a model and its dataset from a sample; without one, an empty document."""

    @classmethod
    def get_scaffold_params(cls) -> type[SampleParams]:
        """Return the options."""
        return SampleParams

    def scaffold(self, request: dg.ScaffoldRequest[SampleParams]) -> None:
        """Write `defs.yaml`, and let the sample land.

        Raises:
            ClickException: The sample cannot be read, or a wish cannot be met.
        """
        stated = request.params
        if stated.sample is None or stated.target is None:
            scaffold_component(request, {})
            return
        try:
            self._write(request, Path(stated.sample), stated.target)
        except ValueError as error:
            raise click.ClickException(str(error)) from error

    def _write(self, request: dg.ScaffoldRequest[SampleParams], path: Path, target: str) -> None:
        # Loading the definitions needs none of these.
        from retrain_assets.domain.start import draft, guess, meaning
        from retrain_assets.steps import start

        model = meaning.slug(request.target_path.name)
        dataset = start.name_dataset(request.params.dataset or path.name.partition(".")[0], {model})
        delivery = start.read_delivery(path, dataset)
        wishes = guess.Wishes(model, dataset, target, request.params.time)
        guessed = guess.guess(delivery.sample, wishes)
        text = guessed.render(f"Written by `dg scaffold` from {path.name}.")
        file = request.target_path / "defs.yaml"
        storage = storage_from(os.environ, request.project_root or Path.cwd())
        landed = start.write_start(file, text, delivery, storage, dataset)
        lines = [*draft.describe(guessed.guesses), *map(draft.printable, guessed.notes), *landed]
        click.echo("\n".join([*lines, f"next: retrain train {model}"]), file=sys.stderr)
