"""Print how large the code is: lines by package, imports, the longest function, and vague names.

Lines of code leave out blank lines, comments and docstrings. Usage: `python benchmarks/size.py`.
"""

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "retrain_assets"
LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}
# A name that says nothing of what it holds: participles and pronouns.
VAGUE = {
    *("found", "told", "said", "asked", "wanted", "held", "known", "made"),
    *("given", "kept", "seen", "there", "shown", "taken", "chosen", "begun"),
    *("due", "named", "left", "done", "sent", "tried", "judged", "stood"),
    *("one", "own", "other", "whole", "each", "every", "few", "both"),
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node):
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def import_lines(tree: ast.Module) -> int:
    """Return how many lines imports take, those inside functions included."""
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in imports)


def functions(tree: ast.Module, lines: set[int]) -> Iterator[tuple[int, str]]:
    """Yield length in lines of code and name of each function."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            span = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            yield len(lines.intersection(span)), node.name


def vague_names(tree: ast.Module) -> Iterator[str]:
    """Yield each variable and argument whose name says nothing of what it holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE:
            yield node.id
        elif isinstance(node, ast.arg) and node.arg in VAGUE:
            yield node.arg


def main() -> None:
    """Print the figures of the package."""
    packages: Counter[str] = Counter()
    files: Counter[str] = Counter()
    vague: Counter[str] = Counter()
    imports, longest = 0, (0, "", "")
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT)
        package = place.parts[0] if len(place.parts) > 1 else "."
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines = code_lines(text, tree)
        packages[package] += len(lines)
        files[package] += 1
        imports += import_lines(tree)
        vague.update(vague_names(tree))
        longest = max([longest, *((*item, str(place)) for item in functions(tree, lines))])
    for package, count in sorted(packages.items()):
        print(f"{package:14} {files[package]:4} files {count:6} lines of code")
    total = packages.total()
    print(f"{'all':14} {files.total():4} files {total:6} lines of code")
    print(f"imports: {imports} lines, {imports / total:.1%}")
    print("longest function: {1} in {2}, {0} lines of code".format(*longest))
    print(f"vague names: {vague.total()} {dict(vague.most_common(8))}")


if __name__ == "__main__":
    main()
