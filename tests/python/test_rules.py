"""Every rule of docs/python.md has a test with its number, and every such test has a rule."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_every_rule_has_a_test_and_every_test_a_rule():
    text = (HERE.parents[1] / "docs/python.md").read_text()
    rules = re.findall(r"^\*\*(\d+\.\d+)\*\* ", text, re.MULTILINE)
    tests = [
        node.name
        for path in HERE.glob("test_[0-9]*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(tests) == len(set(tests)), "a name hides another test"
    assert {".".join(name.split("_")[1:3]) for name in tests} == set(rules)
    assert rules == sorted(rules, key=lambda rule: [int(part) for part in rule.split(".")])
