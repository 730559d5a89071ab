"""What the code says of itself, read from its source: names, keys, calls, limits.

Reading source by patterns is coarse, so each pattern must be found: a change of shape fails here and is looked at.
"""

import re
from functools import cache
from pathlib import Path

# What runs in the Lambda and reads the environment. `clients` has what only the command line reads, too.
READS_ENVIRONMENT = ["src/store.rs", "src/clients.rs", "src/lambda.rs", "src/lambda/*.rs"]


class Source:
    """The source, without comments and tests, with `changes` {path: (old, new)} applied: mutants of code."""

    def __init__(self, root, changes=None):
        self.root, self.changes = Path(root), dict(changes or {})

    @cache
    def text(self, path):
        text = (self.root / path).read_text()
        if path in self.changes:
            old, new = self.changes[path]
            assert old in text, f"{path} has no {old!r} any more: the mutation has to follow the code"
            text = text.replace(old, new)
        text = re.split(r"^#\[cfg\((?:all\()?test\b.*\]\n(?:mod|pub mod)", text, maxsplit=1, flags=re.M)[0]
        return re.sub(r"^\s*//.*\n", "", text, flags=re.M)

    @cache
    def paths(self, *patterns):
        return sorted({str(path.relative_to(self.root)) for pattern in patterns for path in self.root.glob(pattern)})

    def find(self, path, pattern):
        """The groups of the one place that looks like this."""
        found = re.findall(pattern, self.text(path), flags=re.S)
        assert len(found) == 1, f"{path}: {len(found)} places look like {pattern!r}, not one"
        return found[0]

    def fields(self, path, struct):
        """The names that a struct's fields have in JSON."""
        attributes, body = self.find(path, r"((?:#\[[^\n]*\]\n)*)(?:pub )?struct " + struct + r" \{(.*?)\n\}")
        names = re.findall(r"^\s+(?:pub )?([a-z_]+):", body, flags=re.M)
        camel = lambda name: re.sub(r"_([a-z])", lambda found: found[1].upper(), name)
        return [camel(name) if "camelCase" in attributes else name for name in names]

    # ------------------------------------------------------------------------------------------------ names and limits

    def projections(self):
        """{name: (key, [(index, partition, sort, include)])} of all that are registered."""
        listed = re.findall(r"&(\w+)::", self.find("projections/src/lib.rs", r"pub const ALL: [^=]*= &\[(.*?)\];"))
        return dict(self.projection(f"projections/src/{module}.rs") for module in listed)

    def projection(self, path):
        indexes = re.findall(
            r'Index \{ name: "([^"]+)", partition: "([^"]+)", sort: "([^"]+)", include: &\[([^\]]*)\] \}', self.text(path)
        )
        indexes = [(*index[:3], re.findall(r'"([^"]+)"', index[3])) for index in indexes]
        return self.find(path, r'const NAME: &str = "([^"]+)"'), (self.find(path, r'const KEY: &str = "([^"]+)"'), indexes)

    def table_variable(self, projection):
        assert self.find("src/store.rs", r'format!\("(\{\}_TABLE)", projection\.to_ascii_uppercase\(\)\.replace\(\'-\', "_"\)\)')
        return projection.upper().replace("-", "_") + "_TABLE"

    def variables(self):
        """The words in capitals that the Lambda's sources quote: all variables it can read are among them."""
        return {word for path in self.paths(*READS_ENVIRONMENT) for word in re.findall(r'"([A-Z][A-Z0-9_]{3,})"', self.text(path))}

    def tables(self):
        """The keys that `projector tables create` gives its own tables."""
        path = "src/store/tables.rs"
        keys = lambda name: self.find(path, r"fn of_" + name + r'\([^}]*?table\(name, "(\w+)", Some\("(\w+)"\)')
        index = self.find(path, r'index\(BY_TYPE_INDEX, "(\w+)", "(\w+)", ProjectionType::(\w+), &\[\]\)')
        name = self.find(path, r'BY_TYPE_INDEX: &str = "(\w+)"')
        image = self.find(path, r"StreamViewType::(\w+)\)")
        return keys("events"), keys("parked"), (name, *index), image

    def shortest_timeout_seconds(self):
        """What is kept back of an invocation must hold the attempts under way."""
        attempt = int(self.find("src/clients.rs", r"ATTEMPT_TIMEOUT: Duration = Duration::from_secs\((\d+)\)"))
        percent = int(self.find("src/retry.rs", r"WORKING_PERCENT: u32 = (\d+)"))
        return attempt * 100 / (100 - percent)

    def errors_of_tasks(self):
        return set(re.findall(r'error_type: "(\w+)"', self.text("src/lambda/tasks.rs")))

    def metrics(self):
        """The namespace, and the metrics by their dimensions."""
        path = "src/lambda/metrics.rs"
        by = {}
        for body in re.findall(r"pub fn (?:of_\w+)\(.*?\n\}", self.text(path), flags=re.S):
            dimensions = re.findall(r'\("(\w+)", [^)]*\)', self.find_in(body, r"line\(now, &\[(.*?)\], &metrics\)"))
            by.setdefault(tuple(dimensions), set()).update(re.findall(r'(?:count\(|units\(|name: )"(\w+)"', body))
        return self.find(path, r'NAMESPACE: &str = "(\w+)"'), by

    @staticmethod
    def find_in(text, pattern):
        found = re.findall(pattern, text, flags=re.S)
        assert len(found) == 1, f"{len(found)} places look like {pattern!r}, not one"
        return found[0]

    # --------------------------------------------------------------------------------------------------- calls of DynamoDB

    @cache
    def functions(self, path):
        """{function: its source}."""
        parts = re.split(r"^\s*(?:pub(?:\(\w+\))? )?(?:async )?fn (\w+)", self.text(path), flags=re.M)
        return dict(zip(parts[1::2], parts[2::2]))

    def operations(self):
        """All calls that the trait `Dynamo` offers."""
        return set(re.findall(r"^\s+(\w+)\(\w+InputBuilder\)", self.text("src/store/dynamo.rs"), flags=re.M))

    def calls(self):
        """{(file, function): what it sends: operations, and the actions of transactions}."""
        found = {}
        for path in self.paths("src/store/*.rs"):
            for function, body in self.functions(path).items():
                sent = set(re.findall(r"\bdynamo\s*\.(\w+)\(", body))
                sent |= {action.lower() for action in re.findall(r"\b(Put|Update|Delete|ConditionCheck|Get)::builder\(\)", body)}
                if sent:
                    found[path.removeprefix("src/store/").removesuffix(".rs"), function] = sent
        return found

    @cache
    def callers(self, function):
        """The modules that call this function of the store, the store's own and the command line's left out."""
        modules = [path for path in self.paths("src/*.rs", "src/*/*.rs") if not re.match(r"src/(store|cli|embedded|bin)/", path)]
        called = lambda path: re.search(r"\bstore(\(\))?\s*\." + function + r"\(", self.text(path))
        return {path.removeprefix("src/").removesuffix(".rs") for path in modules if called(path)}

    @cache
    def inner_callers(self, function):
        """The functions of the store that call this one."""
        return {
            caller
            for path in self.paths("src/store/*.rs")
            for caller, body in self.functions(path).items()
            if caller != function and re.search(r"\bself\s*\." + function + r"\(", body)
        }

    def uses(self, module):
        """The modules of the engine that this one names, and those below it. The store is where every way ends."""
        path = f"src/{module}.rs"
        named = re.findall(r"\bcrate::(\w+)", self.text(path))
        for tree in re.findall(r"use crate::\{(.*?)\n?\};", self.text(path), flags=re.S):
            named += re.findall(r"(?:^|,)\s*(\w+)", re.sub(r"\{[^{}]*\}", "", re.sub(r"\{[^{}]*\}", "", tree)))
        modules = lambda pattern: {path.removeprefix("src/").removesuffix(".rs") for path in self.paths(pattern)}
        own = modules("src/*.rs") - {"store"}
        # `crate::Worker` is `crate::worker::Worker`.
        return {name.lower() for name in named if name.lower() in own} | modules(f"src/{module}/*.rs")

    def reached_from(self, *modules):
        reached, ahead = set(), list(modules)
        while ahead:
            module = ahead.pop()
            if module not in reached:
                reached.add(module)
                ahead += self.uses(module)
        return reached
