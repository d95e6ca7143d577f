"""Every rule of docs/semantics.md has its tests, and every numbered test its rule."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEMANTICS = HERE.parents[1] / "docs/semantics.md"


def rules():
    """Number of each rule -> the tests that its paragraph names."""
    found = {}
    for line in SEMANTICS.read_text().split("\n"):
        if start := re.match(r"\*\*(\d+\.\d+)\*\* ", line):
            number = start[1]
            assert number not in found, f"rule {number} stands there twice"
            found[number] = []
        elif line.startswith("#"):
            number = None
        named = re.findall(r"`(test_\w+)`", line)
        assert not named or number, f"tests named outside of a rule: {named}"
        if named:
            found[number] += named
    return found


def written():
    """Names of all test functions in this directory."""
    found = []
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.append(node.name)
    assert len(found) == len(set(found)), "a test function stands there twice"
    return found


def test_every_rule_names_its_tests_and_every_test_its_rule():
    named = rules()
    numbered = {}
    for test in written():
        if start := re.match(r"test_(\d+)_(\d+)_", test):
            numbered.setdefault(f"{start[1]}.{start[2]}", []).append(test)
    assert {n: sorted(t) for n, t in named.items()} == {n: sorted(t) for n, t in numbered.items()}


def test_rules_are_in_order_and_without_gaps():
    numbers = [tuple(map(int, number.split("."))) for number in rules()]
    wanted = []
    for group in range(1, max(numbers)[0] + 1):
        below = [second for first, second in numbers if first == group]
        wanted += [(group, second) for second in range(1, len(below) + 1)]
    assert numbers == wanted
