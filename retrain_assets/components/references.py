"""Names of Python things in the YAML, looked up in source files, without importing anything.

Importing scikit-learn takes seconds, and a user's module may do anything. Not here: what is found
when the thing is imported at last.
"""

from __future__ import annotations

import ast
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_assets.specs.base import hint
from retrain_assets.steps.modules import find_module

if TYPE_CHECKING:
    from collections.abc import Iterator


def mistaken_class(path: str) -> str | None:
    """What is wrong with the name of a scikit-learn class, such as `sklearn.svm.SVC`."""
    module, _, name = path.rpartition(".")
    source = _source(module)
    if source is not None and name[0].isupper() and name in (_names(source) or (name,)):
        return None
    public = _classes()
    near = " or ".join(public[found] for found in get_close_matches(name, public, n=3))
    return f"scikit-learn has no {path}" + (f": did you mean {near}?" if near else "")


def mistaken_function(reference: str) -> str | None:
    """What is wrong with `module:function`, as far as it can be told before it is imported."""
    module, _, function = reference.partition(":")
    source = _source(module)
    if source is None:
        return f"no module {module!r}: install it, or put it on PYTHONPATH"
    names = _names(source)
    if names is None or function in names:
        return None
    return f"no {function!r} in {module}{hint(function, names)}"


def _source(module: str) -> Path | None:
    """The file of a module; its packages are not imported on the way."""
    found = find_module(module)
    return Path(found.origin or "") if found else None


@lru_cache(maxsize=64)
def _names(source: Path) -> frozenset[str] | None:
    """The names a module binds; None where its text does not tell."""
    if source.suffix != ".py":
        return None
    try:
        names = frozenset(_bound(ast.parse(source.read_bytes())))
    except SyntaxError:
        return None
    return None if {"*", "__getattr__"} & names else names


def _bound(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        else:
            yield from _bound(child)


def _classes() -> dict[str, str]:
    """The public classes of scikit-learn: full names by name."""
    top = _source("sklearn")
    modules = sorted({file.stem for file in top.parent.glob("[a-z]*")}) if top else []
    return {
        name: f"sklearn.{module}.{name}"
        for module in modules
        if (source := _source(f"sklearn.{module}")) is not None
        for name in _names(source) or ()
        if name[0].isupper()
    }
