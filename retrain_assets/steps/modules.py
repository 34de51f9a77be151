"""The code of Python modules, read from their files without importing them.

A user's module may do anything when it is imported, so it is only read here. Not here: which
modules decide what a model is.
"""

import ast
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import distributions
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

PLATFORM = "retrain_assets"
_LIBRARIES = {"site-packages", "dist-packages"}


def find_module(name: str) -> ModuleSpec | None:
    """Find a module by its full name; its packages are not imported on the way."""
    top, *rest = name.split(".")
    try:
        module = find_spec(top)
    except ValueError:  # it was made at run time, so it has no file
        return None
    for part in rest:
        folders = (module and module.submodule_search_locations) or []
        module = PathFinder.find_spec(part, [*folders])
    return module


def code_of(names: Iterable[str], belongs: Callable[[str, Path], bool]) -> dict[str, str]:
    """Return the code of modules and of those they import, by full name.

    Args:
        names: Modules to begin with.
        belongs: Tells of a module's name and file whether it counts and its imports are followed.
    """
    codes: dict[str, str] = {}
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        module = None if name in codes else find_module(name)
        file = module.origin if module and module.has_location else None
        if module is None or file is None or not belongs(name, Path(file)):
            continue
        loader: Any = module.loader  # reads also from within a zip file
        codes[name], imports = _parsed(loader.get_data(file))
        is_package = module.submodule_search_locations is not None
        package = name if is_package else name.rpartition(".")[0]
        waiting += [full for part in imports if (full := full_name(part, package))]
    return codes


def is_of_the_user(name: str, file: Path) -> bool:
    """Return whether a module is the user's, and not the platform's or of an installed library.

    The version of a library that was installed from an index names its code; of a package that was
    installed from a folder it need not.
    """
    top = name.partition(".")[0]
    library = file.is_relative_to(sysconfig.get_path("stdlib")) or _LIBRARIES & {*file.parts}
    return top != PLATFORM and (not library or top in _installed_from_folders())


@cache
def _installed_from_folders() -> frozenset[str]:
    """Return the top-level modules of distributions that were not installed from an index."""
    local = (item for item in distributions() if item.read_text("direct_url.json"))
    files = (file for item in local for file in item.files or ())
    return frozenset(file.parts[0].removesuffix(".py") for file in files)


@lru_cache(maxsize=1024)
def _parsed(source: bytes) -> tuple[str, tuple[str, ...]]:
    """Return the code of a file without comments and docstrings, and what it imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # compiled, or being edited
        return sha256(source).hexdigest(), ()
    return ast.unparse(_WithoutTexts().visit(tree)), tuple(_imports(tree))


class _WithoutTexts(ast.NodeTransformer):
    """Leaves out docstrings and other constants that stand as statements."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node


def _imports(tree: ast.AST) -> Iterator[str]:
    """Return the names that may be modules; `from a import b` may mean module `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots, module = "." * node.level, node.module or ""
            yield dots + module
            parents = [module] if module else []
            yield from (dots + ".".join([*parents, alias.name]) for alias in node.names)


def full_name(name: str, package: str) -> str | None:
    """Return the full name of an imported module; None where there is no such package."""
    try:
        return resolve_name(name, package)
    except ImportError:
        return None
