"""Do all dependencies come from where deny.toml allows, under a licence that it allows, and in a version that was chosen?

These are the questions of `cargo deny check licenses bans sources`, answered from the same file and `cargo metadata`. `./check`
asks them here where cargo-deny is not installed: building it takes longer than building this project. Advisories need it.

Also: does CONTRIBUTING.md say of each direct dependency what it is for, and is the number of crates that a user compiles bounded?
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


def listed():
    """The dependencies in the table of CONTRIBUTING.md."""
    with open("CONTRIBUTING.md", encoding="utf-8") as file:
        _, table = file.read().split("\n## Dependencies\n", 1)
    names = set()
    for row in re.findall(r"^\| (`.*?) \| \S.* \|$", table.split("\n## ", 1)[0], re.MULTILINE):
        names.update(re.findall(r"`([^`]+)`", row))
    return names


def main():
    with open("deny.toml", "rb") as file:
        deny = tomllib.load(file)
    allowed = deny["licenses"]["allow"]
    command = ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked"]
    packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    problems = []
    ours = {package["name"] for package in packages if package["source"] is None}
    direct = {each["name"] for package in packages if package["source"] is None for each in package["dependencies"]} - ours
    problems += [f"{name}: CONTRIBUTING.md does not say what it is for" for name in sorted(direct - listed())]
    problems += [f"{name}: CONTRIBUTING.md lists it, and nothing depends on it" for name in sorted(listed() - direct)]
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
