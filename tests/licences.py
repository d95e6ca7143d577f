"""Checks that every crate we depend on has a licence that deny.toml allows."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = [
    "Cargo.toml",
    "crates/seekable-deflate/peers/Cargo.toml",
    "crates/seekable-deflate/schedules/Cargo.toml",
]


def allowed(expression, allow):
    """Whether an SPDX expression can be met with licences of `allow` alone."""
    tokens = re.findall(r"[()]|[\w.+-]+", expression.replace("/", " OR "))
    position = 0

    def peek():
        return tokens[position] if position < len(tokens) else None

    def take():
        nonlocal position
        position += 1
        return tokens[position - 1]

    def one():
        if peek() == "(":
            take()
            value = any_of()
            assert take() == ")", expression
            return value
        name = take()
        if peek() == "WITH":
            take()
            name += " WITH " + take()
        return name in allow

    def all_of():
        value = one()
        while peek() == "AND":
            take()
            value = one() and value
        return value

    def any_of():
        value = all_of()
        while peek() == "OR":
            take()
            value = all_of() or value
        return value

    value = any_of()
    assert position == len(tokens), f"cannot read the licence {expression!r}"
    return value


def main():
    allow = set(tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"])
    assert allowed("(MIT OR X) AND Zlib", {"MIT", "Zlib"})
    assert not allowed("MIT AND X", {"MIT"})
    assert not allowed("Apache-2.0 WITH x", {"Apache-2.0"})
    packages = {}
    for manifest in MANIFESTS:
        command = ["cargo", "metadata", "--format-version", "1", "--locked"]
        command += ["--manifest-path", manifest]
        metadata = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
        packages |= {package["id"]: package for package in json.loads(metadata)["packages"]}
    refused = []
    for package in packages.values():
        licence = package["license"]
        if licence is None or not allowed(licence, allow):
            refused.append(f"{package['name']} {package['version']}: {licence}")
    print(f"{len(packages)} crates, {len(refused)} with a licence that is not allowed")
    print("\n".join(refused))
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
