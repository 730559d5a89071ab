"""Runs the checks on the template and the state machine, and tells of each what it found and how long it took.

With `--mutations`, breaks a copy in each way of mutations.py and requires that a check sees it: the cheapest that does is named.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from functools import cached_property
from multiprocessing import Pool
from pathlib import Path

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

import contract
import mutations
import smoke
from source import Source

ROOT = Path(__file__).parents[2]
REGION = "eu-west-1"
UNCHANGED = Source(ROOT)


class Subject:
    """What is checked: the files, in a folder of their own, and what they are once SAM has translated them."""

    def __init__(self, folder, template, machine):
        self.folder = folder
        self.path, self.translated = folder / "template.yaml", folder / "translated.json"
        self.path.write_text(template)
        (folder / "rebuild.asl.json").write_text(machine)
        self.sam = yaml_parse(template)
        self.template = self.translate(deepcopy(self.sam), json.loads(machine))
        self.translated.write_text(json.dumps(self.template, indent=1))
        self.resources = self.template["Resources"]
        self.machine = json.loads(self.substituted(machine))

    @staticmethod
    def translate(template, machine):
        """As CloudFormation does when it meets the Transform, with artifacts where `sam deploy` would put them."""
        template["Globals"]["Function"]["CodeUri"] = f"s3://{smoke.ARTIFACT['Bucket']}/{smoke.ARTIFACT['Key']}"
        for resource in template["Resources"].values():
            if resource["Type"] == "AWS::Serverless::StateMachine":
                del resource["Properties"]["DefinitionUri"]
                resource["Properties"]["Definition"] = machine

        class NoManagedPolicies:
            def load(self):
                return {}

        os.environ.setdefault("AWS_DEFAULT_REGION", REGION)
        return transform(template, {}, NoManagedPolicies())

    def substituted(self, machine):
        """The machine with the values that the template gives it; those known only when deployed are made up."""
        made_up = {"AWS::Partition": "aws", "OperationsFunction": "operations-function"}
        resource = self.sam["Resources"]["RebuildStateMachine"]["Properties"]
        for name, value in resource["DefinitionSubstitutions"].items():
            of = value["Ref"] if "Ref" in value else value["Fn::GetAtt"][0]
            machine = machine.replace("${" + name + "}", str(made_up.get(of) or self.sam["Parameters"][of]["Default"]))
        assert "${" not in machine, "the template does not give the state machine all that it substitutes"
        return machine

    def of_type(self, kind):
        return {name: resource["Properties"] for name, resource in self.resources.items() if resource["Type"] == kind}

    def state(self, name):
        states = self.machine["States"]
        return states.get(name) or states["Rebuild"]["ItemProcessor"]["States"][name]

    @cached_property
    def dashboard(self):
        (dashboard,) = self.of_type("AWS::CloudWatch::Dashboard").values()
        return json.loads(dashboard["DashboardBody"]["Fn::Sub"])


# ---------------------------------------------------------------------------------------------------------------- the checks


def contracts(subject, source):
    for check in contract.CHECKS:
        yield from check(subject, source)


def machine(subject, source):
    tasks = "src/lambda/tasks.rs"
    shapes = {
        "rebuild": source.fields(tasks, "Rebuild"),
        "verify": source.fields(tasks, "Verify"),
        "verified": source.fields(tasks, "Verified"),
        "counts": source.fields("src/rebuild.rs", "Counts"),
    }
    retried = {error for retrier in subject.state("RebuildSegment")["Retry"] for error in retrier["ErrorEquals"]}
    if source.errors_of_tasks() != {"InvalidTask", "Unfinished"} or "Unfinished" not in retried or "InvalidTask" in retried:
        yield f"tasks fail with {source.errors_of_tasks()}, and the machine retries {sorted(retried)}"
    given = json.dumps({"machine": subject.machine, "shapes": shapes})
    ran = subprocess.run(["node", Path(__file__).with_name("machine.js")], input=given, capture_output=True, text=True)
    if ran.returncode:
        yield ran.stderr.strip()
        return
    found = json.loads(ran.stdout)
    yield from found["language"]
    yield from found["run"]


def linted(path):
    from cfnlint.api import ManualArgs, lint_file

    for match in lint_file(path, config=ManualArgs(regions=[REGION])):
        yield f"{match.rule.id} {match.message} ({path.name}:{match.linenumber})"


def checkov(subject, source):
    command = [Path(sys.executable).with_name("checkov"), "--config-file", Path(__file__).with_name("checkov.yaml"), "--output", "json"]
    ran = subprocess.run([*command, "--file", subject.path], capture_output=True, text=True)
    try:
        found = json.loads(ran.stdout)
    except json.JSONDecodeError:
        yield f"checkov came to nothing: {ran.stderr.strip()[-500:]}"
        return
    for failed in found.get("results", {}).get("failed_checks", []):
        yield f"{failed['check_id']} {failed['check_name']} ({failed['resource']})"


# From the cheapest.
CHECKS = {
    "template against code": contracts,
    "state machine, validated and run": machine,
    "cfn-lint on the template": lambda subject, _: linted(subject.path),
    "cfn-lint on its translation": lambda subject, _: linted(subject.translated),
    "checkov": checkov,
    "deployed to moto": lambda subject, _: smoke.deploy(subject),
}


def problems(check, subject, source):
    """What a check finds; one that cannot make sense of its subject has found something, too."""
    try:
        return list(CHECKS[check](subject, source))
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def check_all(template, machine):
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(Path(folder), template, machine)
        for check in CHECKS:
            begun = time.monotonic()
            found = problems(check, subject, UNCHANGED)
            print(f"{'FAILED' if found else 'ok':6}  {time.monotonic() - begun:5.1f} s  {check}", flush=True)
            for problem in found:
                print(f"    {problem}")
            ok &= not found
    return ok


def check_mutations():
    begun, missed = time.monotonic(), 0
    with Pool() as pool:
        for mutation, caught in zip(mutations.MUTATIONS, pool.imap(caught_by, mutations.MUTATIONS)):
            print(f"{mutation[0]:48}  {caught or 'MISSED'}", flush=True)
            missed += caught is None
    total = len(mutations.MUTATIONS)
    print(f"{'FAILED' if missed else 'ok':6}  {time.monotonic() - begun:5.1f} s  {total - missed} of {total} mutations caught")
    return not missed


def caught_by(mutation):
    """The cheapest check that sees it, and in what words; `None` if none does."""
    _, path, old, new = mutation
    texts, changes = originals(), {}
    if path in texts:
        assert old in texts[path], f"{path} has no {old!r} any more: the mutation has to follow"
        texts[path] = texts[path].replace(old, new)
    else:
        changes[path] = (old, new)
    with tempfile.TemporaryDirectory() as folder:
        try:
            subject = Subject(Path(folder), *texts.values())
        except Exception as error:
            return f"translation by SAM: {error}"[:140]
        source = Source(ROOT, changes) if changes else UNCHANGED
        for check in CHECKS:
            if found := problems(check, subject, source):
                return f"{check}: {found[0]}"[:140]
    return None


def originals():
    return {name: (ROOT / "infra" / name).read_text() for name in ("template.yaml", "rebuild.asl.json")}


if __name__ == "__main__":
    good = check_all(*originals().values())
    if "--mutations" in sys.argv[1:]:
        good &= check_mutations()
    sys.exit(not good)
