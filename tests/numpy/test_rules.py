"""Every rule of docs/semantics.md has a test with its number, and every such test has a rule."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEMANTICS = HERE.parents[1] / "docs/semantics.md"


def rules():
    """The numbers of all rules, in their order: `(group, number)`."""
    found = re.findall(r"^\*\*(\d+)\.(\d+)\*\* ", SEMANTICS.read_text(), re.MULTILINE)
    return [(int(group), int(number)) for group, number in found]


def names_of_tests():
    """The names of all test functions in this directory."""
    return [
        node.name
        for path in sorted(HERE.glob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def test_every_rule_has_a_test_and_every_numbered_test_a_rule():
    numbered = [re.match(r"test_(\d+)_(\d+)_", name) for name in names_of_tests()]
    assert {(int(m[1]), int(m[2])) for m in numbered if m} == set(rules())


def test_every_test_has_a_name_of_its_own():
    assert len(names_of_tests()) == len(set(names_of_tests()))


def test_rules_are_in_order_and_without_gaps():
    numbers = rules()
    wanted = []
    for group in range(1, numbers[-1][0] + 1):
        below = [second for first, second in numbers if first == group]
        wanted += [(group, second) for second in range(1, len(below) + 1)]
    assert numbers == wanted
