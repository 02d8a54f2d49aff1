"""Do all dependencies come from where deny.toml allows, under a licence that it allows, and in a version that was chosen?

The same questions as `cargo deny check licenses bans sources` asks, from the same file, answered from `cargo metadata`. To install
cargo-deny takes five minutes of processor time and builds more crates than this project has, so `./check` does without; who has
it may run it, deny.toml is written for it.
"""

import json
import re
import subprocess
import sys
import tomllib

# An embedded store must not slow down every build of the program.
EMBEDDED_CRATES_MAX = 49
# The same for a program that uses the client, without TLS.
CLIENT_CRATES_MAX = 60

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def allows(expression, allowed):
    """Whether an SPDX expression (AND, OR, WITH, parentheses; `/` for OR as old crates write it) can be met with `allowed`."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def any_of():
        met = all_of()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met |= all_of()
        return met

    def all_of():
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met &= one()
        return met

    def one():
        name = tokens.pop(0)
        if name == "(":
            met = any_of()
            assert tokens.pop(0) == ")", expression
            return met
        if tokens and tokens[0] == "WITH":
            name = f"{name} {tokens.pop(0)} {tokens.pop(0)}"
        return name in allowed

    met = any_of()
    assert not tokens, f"{expression!r} is no licence expression"
    return met


def crates_of(package):
    """What is compiled for `package` with its default features, itself included."""
    command = ["cargo", "tree", "--locked", "-e", "normal", "--prefix", "none", "--format", "{p}", "-p", package]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return sorted({" ".join(line.split()[:2]) for line in lines})


def main():
    with open("deny.toml", "rb") as file:
        deny = tomllib.load(file)
    allowed = deny["licenses"]["allow"]
    command = ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked"]
    packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    problems = []
    for package in packages:
        name, licence, source = f"{package['name']} {package['version']}", package["license"], package["source"]
        if not licence or not allows(licence, allowed):
            problems.append(f"{name}: its licence {licence} is not allowed by deny.toml")
        # None is a crate of this workspace.
        if source not in (None, CRATES_IO):
            problems.append(f"{name}: it comes from {source}, not from crates.io")
        # What has a path is of this workspace.
        if source is None:
            wild = [each["name"] for each in package["dependencies"] if each["req"] == "*" and "path" not in each]
            problems += [f"{name}: its dependency {each} has no version" for each in wild]
    embedded = crates_of("kvstore-core")
    if len(embedded) > EMBEDDED_CRATES_MAX:
        problems.append(f"a program that embeds kvstore-core compiles {len(embedded)} crates: {' '.join(embedded)}")
    client = crates_of("kvstore-client")
    if len(client) > CLIENT_CRATES_MAX:
        problems.append(f"a program that uses kvstore-client compiles {len(client)} crates: {' '.join(client)}")
    print(f"{len(embedded)} crates for a program that embeds kvstore-core, {len(client)} for one that uses kvstore-client")
    print(*problems or [f"{len(packages)} packages, all allowed"], sep="\n")
    return 1 if problems else 0


sys.exit(main())
