"""The values that arguments of scikit-learn's estimators may have, read from its source.

Each class lists in `_parameter_constraints` what it accepts, so that a wrong value is known without
importing the library. Not here: the names of arguments, and finding the source.
"""

import ast
import math
import re
from collections.abc import Iterator
from itertools import chain
from numbers import Integral, Real
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("list", "tuple", "'array-like'"), list),
    **dict.fromkeys(("callable", "'sparse matrix'"), ()),
    "Integral": Integral,
    "Real": Real,
    "str": str,
    "dict": dict,
    "None": type(None),
    "'boolean'": bool,
    "'verbose'": (bool, Integral),
    "'random_state'": (Integral, type(None)),
}
_ENDS, _NUMBER = ("left", "right"), re.compile(r"-?[0-9.]+")


def read_value_rules(classes: list[ast.ClassDef]) -> dict[str, ast.expr]:
    """Return what a class and its bases, in this order, say of the values of each argument."""
    rules: dict[str, ast.expr] = {}
    for key, value in chain.from_iterable(map(_list_rules, classes)):
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            rules.setdefault(key.value, value)
    return rules


def list_rule_givers(node: ast.ClassDef) -> list[str]:
    """Return the classes whose rules a class takes over (`**Tree._parameter_constraints`)."""
    values = [ast.unparse(value) for key, value in _list_rules(node) if key is None]
    return [text.partition(".")[0] for text in reversed(values)]  # the last one counts


def _list_rules(node: ast.ClassDef) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    """Yield what the body of a class lists, by argument; without one where it takes rules over."""
    for part in node.body:
        target = part.target if isinstance(part, ast.AnnAssign) else None
        is_rule = isinstance(target, ast.Name) and target.id == "_parameter_constraints"
        if is_rule and isinstance(part, ast.AnnAssign) and isinstance(part.value, ast.Dict):
            yield from zip(part.value.keys, part.value.values, strict=True)


def allows_value(rule: ast.expr | None, value: Any) -> bool:
    """Return whether an argument may have a value; also if its rule cannot be read."""
    if rule is None:
        return True
    if isinstance(rule, ast.List):
        return any(allows_value(part, value) for part in rule.elts)
    if isinstance(rule, ast.Call):
        return _allows(rule, value)
    kind = _TYPES.get(ast.unparse(rule))
    return kind is None or isinstance(value, kind)


def _allows(rule: ast.Call, value: Any) -> bool:
    """Return whether an interval or a set of options contains a value."""
    name = ast.unparse(rule.func)
    if name == "StrOptions" and isinstance(rule.args[0], ast.Set):
        return value in map(ast.literal_eval, rule.args[0].elts)
    if name != "Interval":
        return True
    kind, *bounds = map(ast.unparse, rule.args)
    if not isinstance(value, int | float) or not isinstance(value, _TYPES.get(kind, Real)):
        return False
    low, high = (float(text) if _NUMBER.fullmatch(text) else math.nan for text in bounds)
    closed = [ast.unparse(word.value) for word in rule.keywords]
    is_open_below, is_open_above = (closed[:1] not in ([f"'{end}'"], ["'both'"]) for end in _ENDS)
    is_below = value < low or (value == low and is_open_below)
    return not (is_below or value > high or (value == high and is_open_above))
