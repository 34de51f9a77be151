"""What an installation without extras takes: megabytes of each package, and what asks for it.

Not here: compiled Python files, which pip makes afterwards.
"""

from collections import defaultdict
from importlib.metadata import distribution

from packaging.requirements import Requirement

LARGEST = 12


def collect() -> dict[str, set[str]]:
    """Return all packages that an installation brings, with those that ask for each."""
    asked: dict[str, set[str]] = defaultdict(set)
    waiting, seen = [("retrain-assets", "")], set()
    while waiting:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        name, extra = item
        for requirement in map(Requirement, distribution(name).requires or []):
            marker, wanted = requirement.marker, requirement.name.lower().replace("_", "-")
            if marker is None or marker.evaluate({"extra": extra}):
                asked[wanted].add(name)
                waiting += [(wanted, part) for part in ("", *requirement.extras)]
    return asked


def measure(name: str) -> float:
    """Return the megabytes of a package's files."""
    return sum(file.size or 0 for file in distribution(name).files or []) / 2**20


def main() -> None:
    """Print the sum, and the largest packages."""
    asked = collect()
    sizes = {name: measure(name) for name in asked}
    print(f"{len(sizes)} packages, {sum(sizes.values()):,.0f} MB")
    for name in sorted(sizes, key=lambda name: -sizes[name])[:LARGEST]:
        print(f"{sizes[name]:6.0f}  {name:20}  {', '.join(sorted(asked[name]))}")


if __name__ == "__main__":
    main()
