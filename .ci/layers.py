"""Fails if a file of `src` uses a layer that is not below its own, or if modules of one folder use each other in a circle.

    python3 .ci/layers.py             check
    python3 .ci/layers.py --show      and print which top-level module uses which

It reads paths (`use crate::...`, `crate::a::b`, `super::x`, a child by its name), resolves re-exports to the file that defines the item,
and leaves out comments, strings and `#[cfg(test)]`. `lib.rs` and `src/bin` stand above everything and may use all of it;
`build.rs` is a program of its own.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

SRC = Path("src")

# Top-level modules from the bottom up. A module may use those of the lines before its own, and none of its own line.
LAYERS = [
    ["config", "escape", "plural", "progress", "retry"],
    ["clients", "embedded"],
    ["store"],
    ["age", "commands", "snapshot", "sources"],
    ["engine"],
    ["operations", "queries"],
    ["dev", "doctor"],
    ["cli", "lambda"],
]


def without_comments_strings_and_tests(text):
    literal = r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\'\\])\''
    text = re.sub(literal, lambda found: '""' if found[0][0] not in "/" else " ", text, flags=re.S)
    while found := re.search(r"#\[cfg\((?:test|all\(test\b[^\]]*)\)\]\s*", text):
        end = found.end()
        depth = 0
        while end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
            if depth == 0 and text[end - 1] in "};":
                break
        text = text[: found.start()] + text[end:]
    return text


def split_at_commas(text):
    parts, depth, part = [], 0, ""
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    return [part.strip() for part in [*parts, part] if part.strip()]


def leaves(tree):
    """The paths of a `use`, each with the name that it gets here: `a::{b, c as d}` is a::b named b and a::c named d."""
    tree = tree.strip()
    if tree.endswith("}"):
        prefix, _, inner = tree.partition("{")
        for part in split_at_commas(inner[:-1]):
            for path, name in leaves(part):
                whole = re.sub(r"\s", "", prefix) + path
                if path == "self":
                    whole = whole.removesuffix("::self")
                    name = whole.split("::")[-1]
                yield whole, name
        return
    path, _, name = tree.partition(" as ")
    path = re.sub(r"\s", "", path)
    yield path, name.strip() or path.split("::")[-1]


class Module:
    def __init__(self, file):
        self.file = file
        parts = file.relative_to(SRC).with_suffix("").parts
        self.path = () if parts == ("lib",) else parts
        self.names = {}  # what a `use` brings into this module
        self.globs = []
        text = without_comments_strings_and_tests(file.read_text())
        for tree in re.findall(r"\buse\s+([^;]+);", text):
            for path, name in leaves(tree):
                if name == "*":
                    self.globs.append(path.removesuffix("::*"))
                else:
                    self.names[name] = path
        self.rest = re.sub(r"\buse\s+[^;]+;", "", text)


def belongs(file):
    """Whether a file is one of the library's: not a program's, and not of a crate of its own."""
    return file.name != "build.rs" and "bin" not in file.relative_to(SRC).parts and not (file.parent / "Cargo.toml").exists()


modules = {module.path: module for file in SRC.rglob("*.rs") if belongs(file) for module in [Module(file)]}


def absolute(module, path):
    """The path from the crate's root, or None if it leads out of the crate."""
    first, *rest = path.split("::")
    if first == "crate":
        return tuple(rest)
    if first == "self":
        return module.path + tuple(rest)
    if first == "super":
        above = module.path[:-1]
        while rest and rest[0] == "super":
            above, rest = above[:-1], rest[1:]
        return above + tuple(rest)
    if module.path + (first,) in modules:
        return module.path + (first, *rest)
    return None


def defined_in(path, seen=()):
    """The module whose file defines what the path names."""
    at = ()
    for depth, name in enumerate(path):
        if at + (name,) in modules:
            at += (name,)
            continue
        target = modules[at].names.get(name)
        inner = absolute(modules[at], target) if target else None
        if inner is not None and (at, name) not in seen:
            return defined_in(inner + path[depth + 1 :], (*seen, (at, name)))
        return at
    return at


uses = defaultdict(dict)
for module in modules.values():
    if module.path == ():
        continue
    paths = [*module.names.values(), *module.globs]
    paths += re.findall(r"\b(?:crate|super|self)(?:::\w+)+", module.rest)
    paths += [found for found in re.findall(r"(?<![:\w.])([a-z]\w*(?:::\w+)+)", module.rest) if module.path + (found.split("::")[0],) in modules]
    for path in paths:
        target = absolute(module, path)
        if target is not None and (target := defined_in(target)) not in ((), module.path):
            uses[module.path].setdefault(target, path)

failures = []


def name(path):
    return str(modules[path].file)


level = {module: number for number, layer in enumerate(LAYERS) for module in layer}
for top in sorted({path[0] for path in modules if path}):
    if top not in level:
        failures.append(f"{top} is not in the list of layers in .ci/layers.py")
for module in sorted(uses):
    for target in sorted(uses[module]):
        if module[0] == target[0] or module[0] not in level or target[0] not in level:
            continue
        if level[target[0]] >= level[module[0]]:
            failures.append(f"{name(module)} uses {name(target)} ({uses[module][target]}), but `{target[0]}` does not lie below `{module[0]}`")


def circles(nodes, edges):
    """Strongly connected components of more than one node (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(edges.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[len(stack) - len(component) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in nodes:
        if node not in index:
            visit(node)
    return found


if __name__ == "__main__":
    # A folder `foo/` and its `foo.rs` are one module: the folder holds its parts, so the two may use each other. Within a folder, the
    # parts (each with its own folder) must not.
    for folder in sorted({path[:-1] for path in modules if path}):
        edges = defaultdict(dict)
        for module in uses:
            for target in uses[module]:
                depth = len(folder)
                if module[:depth] == target[:depth] == folder and len(module) > depth < len(target) and module[depth] != target[depth]:
                    edges[module[depth]].setdefault(target[depth], []).append(f"{name(module)} uses {name(target)} ({uses[module][target]})")
        for circle in circles(sorted(edges), edges):
            failures.append(f"a circle in {'/'.join((str(SRC), *folder))}: " + ", ".join(circle))
            failures += [f"    {use}" for part in circle for target in circle for use in edges[part].get(target, [])]
    if "--show" in sys.argv:
        tops = defaultdict(set)
        for module, targets in uses.items():
            tops[module[0]] |= {target[0] for target in targets if target[0] != module[0]}
        for top in sorted(tops):
            print(f"{top} -> {', '.join(sorted(tops[top]))}")
    if failures:
        print("\n".join(failures), file=sys.stderr)
        sys.exit(1)
    print(f"holds: {len(modules)} files of src in {len(LAYERS)} layers, no circle")
