"""The YAML of a SQL source: which rows are read from a database, and how new ones are recognised.

Not here: connecting to any database, and what a sound row is.
"""

from pydantic import Field

from retrain_assets.specs.base import Duration, Mistakes, Spec, duration


class SqlSpec(Spec):
    """A table or a query of a database whose rows become landing files.

    Args:
        uri: Name of the environment variable with the URI, such as `WAREHOUSE_URI`; never a URI.
        table: The table or view that is read, with its schema, such as `shop.orders`.
        query: A SELECT in the database's own SQL that is read in place of a table.
        cursor: Column that grows with each new or changed row; without it, all rows are read again.
        overlap: Rows so much older than the newest cursor are read again, for late commits.
        every: How often the database is asked for new rows.
    """

    uri: str = Field(pattern="^[A-Za-z_][A-Za-z0-9_]{0,99}$")
    table: str | None = Field(None, min_length=1, max_length=300)
    query: str | None = Field(None, min_length=1, max_length=100_000)
    cursor: str | None = Field(None, min_length=1, max_length=255)
    overlap: Duration = "0s"
    every: Duration = "1h"

    @property
    def place(self) -> str:
        """Return what is read, in a few words."""
        return f"{self.table or 'the query'} of the database in {self.uri}"

    def _find_mistakes(self) -> Mistakes:
        if (self.table is None) == (self.query is None):
            yield "give either `table` or `query`"
        if self.cursor is None and duration(self.overlap):
            yield "overlap: there is no `cursor` that it could be counted from"
        if not duration(self.every):
            yield "every: give at least 1s"
