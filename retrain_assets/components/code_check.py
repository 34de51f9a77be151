"""Mistakes in the Python code that a spec names, read from source files.

Importing a library takes seconds, and a user's module may do anything, so nothing is imported.
Not here: mistakes that only an import shows (`domain.model`).
"""

import ast
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.util import resolve_name
from itertools import chain
from pathlib import Path
from typing import Any

from retrain_assets.domain.model.families.catalogue import TITLES, find_family
from retrain_assets.domain.model.families.family import EstimatorFamily
from retrain_assets.domain.model.families.parameters import (
    allows_value,
    list_rule_givers,
    read_value_rules,
)
from retrain_assets.specs.base import hint
from retrain_assets.specs.model import DistributionSpec, EstimatorSpec, ModelSpec
from retrain_assets.specs.yaml import Loc
from retrain_assets.steps.modules import find_module, full_name, is_of_the_user

Mistake = tuple[Loc, str]
_DEFINED = ast.ClassDef | ast.FunctionDef
_BASES = {"BaseEstimator", "TransformerMixin", "ClassifierMixin", "RegressorMixin"}
_IN_A_FUNCTION = "build it in a function and name that in estimator.python"


def find_code_mistakes(spec: ModelSpec) -> Iterator[Mistake]:
    """Yield the fields of a model that name classes, functions or arguments that cannot work."""
    references = {"estimator": spec.estimator.python, "features": spec.features.python}
    for part, reference in references.items():
        if reference is not None and (why := mistaken_function(reference)) is not None:
            yield (part, "python"), why
    yield from _find_trust_mistakes(spec.estimator)
    path, loc = spec.estimator.class_, ("estimator", "class")
    if path is None:
        return
    if (family := find_family(path)) is None:
        yield (
            loc,
            f"{path} is of none of {TITLES}: build it in a function and name that in `python`",
        )
    elif find_module(family.name) is None:
        yield loc, family.is_missing
    elif clash := family.clash:
        yield loc, clash
    else:
        yield from _estimator_mistakes(spec, family, path)


def _estimator_mistakes(spec: ModelSpec, family: EstimatorFamily, path: str) -> Iterator[Mistake]:
    """Yield what the family, its class and the arguments show to be impossible."""
    loc = ("estimator", "class")
    if spec.estimator.early_stopping is not None and not family.early_stops:
        yield ("estimator", "early_stopping"), f"{family.title} has none here: leave it out"
    if spec.gate.guards.explanation_shift is not None and not family.explains(path):
        loc_of_guard = ("gate", "guards", "explanation_shift")
        yield loc_of_guard, f"{path} has no SHAP values here: leave it out"
    if refused := list(family.find_mistakes(spec)):
        yield from refused
        return
    if family.reads_roles and (why := mistaken_class(path)) is not None:
        yield loc, why
        return
    classes = list(read_class(*path.rpartition(".")[::2]))
    if not classes:
        return
    if family.reads_roles and (why := _mistaken_role(path, spec.target.kind, classes)) is not None:
        yield loc, why
        return
    accepted, required = read_arguments(classes)
    if required:
        yield loc, f"{path} needs {', '.join(required)}: {_IN_A_FUNCTION}"
    names = [*accepted, *family.further_params]
    yield from (unknown := list(_list_unknown_arguments(spec, path, names)))
    if not (required or unknown):
        yield from family.find_unusable(spec)
    if family.reads_roles:
        yield from _list_bad_values(spec, path)


def _list_bad_values(spec: ModelSpec, path: str) -> Iterator[Mistake]:
    """Yield values, set or searched, that scikit-learn refuses when it fits.

    The library is only imported, for its own words, if the source of the class rules a value out.
    """
    module, _, title = path.rpartition(".")
    rules = read_value_rules(list(read_class(module, title, with_rules=True)))
    search = spec.estimator.search.params if spec.estimator.search else {}
    searched = (
        (("search", "params", name), item)
        for name, part in search.items()
        for item in _list_ends(part)
    )
    params = ((("params", name), value) for name, value in spec.estimator.params.items())
    for loc, value in chain(params, searched):
        if allows_value(rules.get(loc[-1]), value):
            continue
        from sklearn.utils._param_validation import validate_parameter_constraints

        constraints = getattr(import_module(module), title)._parameter_constraints  # noqa: SLF001
        try:
            validate_parameter_constraints(constraints, {loc[-1]: value}, title)
        except ValueError as error:
            yield ("estimator", *loc), str(error)


def _list_ends(part: DistributionSpec) -> list[Any]:
    """Return the values of a search, or the ends of its range."""
    kind: Any = int if part.is_integer else float
    return part.values or [kind(part.low), kind(part.high)]


def _list_unknown_arguments(spec: ModelSpec, path: str, names: list[str]) -> Iterator[Mistake]:
    """Yield arguments, set or searched, that a class does not take."""
    search = spec.estimator.search
    for place, params in (
        (("params",), spec.estimator.params),
        (("search", "params"), search.params if search else {}),
    ):
        for name in params:
            if name.partition("__")[0] not in names:
                why = f"{path} takes no {name!r}{hint(name, names)}"
                yield ("estimator", *place, name), why


def _mistaken_role(path: str, kind: str, classes: list[ast.ClassDef]) -> str | None:
    """Return why a class does not predict what a kind needs, as far as its bases show it."""
    role = "regressor" if kind == "regression" else "classifier"
    if f"{role.capitalize()}Mixin" not in {base.name for base in classes}:
        return f"{path} is not a {role}, which target.kind {kind} needs"
    if role == "classifier" and not any("predict_proba" in _methods(base) for base in classes):
        return f"{path} gives no probabilities: choose one that does"
    return None


def read_class(module: str, name: str, *, with_rules: bool = False) -> Iterator[ast.ClassDef]:
    """Yield a class of a library and its bases, as far as source files show them.

    Args:
        module: The module that has the class, or imports it.
        name: The class.
        with_rules: Whether to yield also the classes whose rules for values it takes over.
    """
    tree = _parse(source) if (source := _source(module)) else None
    for node in _list_statements(tree) if tree else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            yield node
            others = list_rule_givers(node) if with_rules else []
            for base in (*others, *(ast.unparse(base).rpartition(".")[2] for base in node.bases)):
                yield from read_class(module, base, with_rules=with_rules)
        elif isinstance(node, ast.ImportFrom):
            package = module if source and source.stem == "__init__" else module.rpartition(".")[0]
            origin = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                inside = origin.partition(".")[0] == module.partition(".")[0]
                if (alias.asname or alias.name) == name and inside:
                    yield from read_class(origin, alias.name, with_rules=with_rules)


def _list_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements of a module, and those that it tries or does on a condition."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.Try | ast.If) else [node]


def _methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}


def read_arguments(classes: list[ast.ClassDef]) -> tuple[list[str], list[str]]:
    """Return the arguments of a class, and those of them that have no default.

    A class that takes any argument by name hands them on to its bases.
    """
    accepted: list[str] = []
    needed: list[str] = []
    for node in classes:
        if init := _methods(node).get("__init__"):
            by_place, by_name = init.args.args[1:], init.args.kwonlyargs
            required = by_place[: len(by_place) - len(init.args.defaults)]
            pairs = zip(by_name, init.args.kw_defaults, strict=True)
            required += [argument for argument, default in pairs if default is None]
            accepted += [argument.arg for argument in by_place + by_name]
            needed += [argument.arg for argument in required]
            if init.args.kwarg is None:
                break
    return accepted, needed


@lru_cache(maxsize=64)
def _parse(source: Path) -> ast.Module | None:
    """Return the syntax tree of a module, or None if it is not written in Python."""
    try:
        return ast.parse(source.read_bytes()) if source.suffix == ".py" else None
    except SyntaxError:
        return None


def mistaken_class(path: str) -> str | None:
    """Return what is wrong with the name of a scikit-learn class, such as `sklearn.svm.SVC`."""
    module, _, name = path.rpartition(".")
    source = _source(module)
    if source is not None and name[0].isupper() and name in (_names(source) or (name,)):
        return None
    public = _classes()
    near = " or ".join(public[match] for match in get_close_matches(name, public, n=3))
    return f"scikit-learn has no {path}" + (f": did you mean {near}?" if near else "")


def mistaken_function(reference: str) -> str | None:
    """Return what is wrong with `module:function`, as far as its source shows it."""
    module, _, function = reference.partition(":")
    source = _source(module)
    if source is None:
        return f"no module {module!r}: install it, or put it on PYTHONPATH"
    names = _names(source)
    if names is None or function in names:
        return None
    return f"no {function!r} in {module}{hint(function, names)}"


def _source(module: str) -> Path | None:
    """Return the file of a module; its packages are not imported on the way."""
    spec = find_module(module)
    return Path(spec.origin or "") if spec else None


@lru_cache(maxsize=64)
def _names(source: Path) -> frozenset[str] | None:
    """Return the names that a module binds, or None if its text does not show them."""
    tree = _parse(source)
    names = frozenset(_bound_names(tree)) if tree else frozenset("*")
    return None if {"*", "__getattr__"} & names else names


def _bound_names(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        else:
            yield from _bound_names(child)


def _find_trust_mistakes(spec: EstimatorSpec) -> Iterator[Mistake]:
    """Yield names in `trusted` that name nothing, and classes of the user that it leaves out."""
    for number, path in enumerate(spec.trusted):
        if (why := mistaken_function(":".join(path.rpartition(".")[::2]))) is not None:
            yield ("estimator", "trusted", number), why
    parts = sorted({*_list_parts((spec.python or "").replace(":", "."), set())})
    if untrusted := [path for path in parts if path not in spec.trusted]:
        line = ", ".join(dict.fromkeys([*spec.trusted, *untrusted]))
        why = (
            f"it makes {', '.join(untrusted)}, whose code runs whenever a model is loaded: if you "
            f"trust that code, write estimator.trusted: [{line}]"
        )
        yield ("estimator", "python"), why


def _list_parts(path: str, visited: set[str]) -> Iterator[str]:
    """Yield the estimators of the user that a function, and functions that it calls, make."""
    module, _, name = path.rpartition(".")
    source = _source(module) if module and path not in visited else None
    tree = _parse(source) if source and is_of_the_user(module, source) else None
    if source is None or tree is None:
        return
    visited.add(path)
    package = module if source.stem == "__init__" else module.rpartition(".")[0]
    origins = dict(_list_imports(tree, package))
    nodes = {node.name: node for node in _list_statements(tree) if isinstance(node, _DEFINED)}
    node = nodes.get(name)
    if isinstance(node, ast.ClassDef):
        classes = [*read_class(module, name)]
        bases = {ast.unparse(base).rpartition(".")[2] for item in classes for base in item.bases}
        if _BASES & bases or any("fit" in _methods(item) for item in classes):
            yield path
    elif node is None and name in origins:
        yield from _list_parts(origins[name], visited)
    for call in ast.walk(node) if isinstance(node, ast.FunctionDef) else ():
        if isinstance(call, ast.Call):
            head, point, rest = ast.unparse(call.func).partition(".")
            yield from _list_parts(f"{origins.get(head, f'{module}.{head}')}{point}{rest}", visited)


def _list_imports(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """Yield the names that a module imports, and their full names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom):
            origin = full_name("." * node.level + (node.module or ""), package) or ""
            for alias in node.names:
                yield alias.asname or alias.name, f"{origin}.{alias.name}"


def _classes() -> dict[str, str]:
    """Return the full names of the public classes of scikit-learn, by name."""
    top = _source("sklearn")
    modules = sorted({file.stem for file in top.parent.glob("[a-z]*")}) if top else []
    return {
        name: f"sklearn.{module}.{name}"
        for module in modules
        if (source := _source(f"sklearn.{module}")) is not None
        for name in _names(source) or ()
        if name[0].isupper()
    }
