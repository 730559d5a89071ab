"""Runs the checks on the template and the state machine. Each reports what it finds and how long it takes.

With `--mutations`, also breaks a copy in each way of mutations.py. A check must report each; the first that does is printed. Everything
that differs from what was reviewed is reported by that check already, so the other checks are tried on mutations of their own.
Whether the template agrees with the code is checked in Rust: tests/end_to_end/infrastructure.rs.
"""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

import mutations
import reviewed
import smoke

CHECKS_FOLDER = Path(__file__).parent
INFRA = CHECKS_FOLDER.parent
REGION = "eu-west-1"
# It warns that nothing collects its usage metrics.
logging.getLogger("samtranslator.metrics").setLevel(logging.ERROR)
# A process of a pool inherits what was imported, which takes longer than most checks.
FORK = multiprocessing.get_context("fork")


class Subject:
    """What is checked: the files, in a folder of their own, and the template that SAM translates them into."""

    def __init__(self, folder, texts):
        template, machine = texts[mutations.TEMPLATE], texts[mutations.MACHINE]
        self.tasks = json.loads(texts[mutations.TASKS])
        self.path, self.translated = folder / "template.yaml", folder / "translated.json"
        self.path.write_text(template)
        (folder / "rebuild.asl.json").write_text(machine)
        self.sam = yaml_parse(template)
        self.template = self.translate(deepcopy(self.sam), json.loads(machine))
        self.translated.write_text(json.dumps(self.template, indent=1))
        self.definition = json.loads(machine)
        self.machine = json.loads(self.substituted(machine))

    @staticmethod
    def translate(template, machine):
        """As CloudFormation does for the Transform, with artifacts where `sam deploy` would put them."""
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
        """The machine with the values that the template substitutes. Those that only a deployment knows are made up."""
        made_up = {"AWS::Partition": "aws", "OperationsFunction": "operations-function"}
        resource = self.sam["Resources"]["RebuildStateMachine"]["Properties"]
        for name, value in resource["DefinitionSubstitutions"].items():
            of = value["Ref"] if "Ref" in value else value["Fn::GetAtt"][0]
            machine = machine.replace("${" + name + "}", str(made_up.get(of) or self.sam["Parameters"][of]["Default"]))
        assert "${" not in machine, "the template does not substitute everything in the state machine"
        return machine


# ------------------------------------------------------------------------------------------------------------------ the checks


def machine(subject):
    """Validates the state machine and runs it. The function that it invokes takes and answers what the code does."""
    tasks = subject.tasks
    shapes = {
        "rebuild": list(tasks["rebuild"]["task"]),
        "settle": list(tasks["settle"]["task"]),
        "settled": list(tasks["settle"]["answer"]),
        "verify": list(tasks["verify"]["task"]),
        "verified": list(tasks["verify"]["answer"]),
        "counts": list(tasks["rebuild"]["answer"]["counts"]),
    }
    given = json.dumps({"machine": subject.machine, "shapes": shapes, "errors": tasks["errors"]})
    ran = subprocess.run(["node", CHECKS_FOLDER / "machine.js"], input=given, capture_output=True, text=True)
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


def checkov(subject):
    command = [Path(sys.executable).with_name("checkov"), "--config-file", CHECKS_FOLDER / "checkov.yaml", "--output", "json"]
    ran = subprocess.run([*command, "--file", subject.path], capture_output=True, text=True)
    try:
        found = json.loads(ran.stdout)
    except json.JSONDecodeError:
        yield f"checkov failed: {ran.stderr.strip()[-500:]}"
        return
    for failed in found.get("results", {}).get("failed_checks", []):
        yield f"{failed['check_id']} {failed['check_name']} ({failed['resource']})"


REVIEWED = "everything is as reviewed"

# Cheapest first.
CHECKS = {
    REVIEWED: lambda subject: reviewed.problems(subject.sam, subject.template, subject.definition),
    "catch-ups overlap": lambda subject: reviewed.overlaps(subject.template),
    "ticks do not overlap": lambda subject: reviewed.ticks(subject.template),
    "state machine, validated and run": machine,
    "cfn-lint on the template": lambda subject: linted(subject.path),
    "cfn-lint on its translation": lambda subject: linted(subject.translated),
    "checkov": checkov,
    "deployed to moto": smoke.deploy,
}


def problems(check, subject):
    """What a check finds. A check that fails on its subject has also found something."""
    try:
        return list(CHECKS[check](subject))
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


SUBJECTS = []


def checked(check):
    begun = time.monotonic()
    found = problems(check, SUBJECTS[-1])
    return check, found, time.monotonic() - begun


def check_all():
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(Path(folder), originals())
        with FORK.Pool(initializer=SUBJECTS.append, initargs=(subject,)) as pool:
            for check, found, seconds in pool.imap(checked, CHECKS):
                print(f"{'FAILED' if found else 'ok':6}  {seconds:5.1f} s  {check}", flush=True)
                for problem in found:
                    print(f"    {problem}")
                ok &= not found
    return ok


def check_mutations():
    begun, missed = time.monotonic(), 0
    others = [check for check in CHECKS if check != REVIEWED]
    all_mutations = [(mutation, others) for mutation in mutations.MUTATIONS]
    all_mutations += [(mutation, [REVIEWED]) for mutation in mutations.OF_REVIEWED]
    with FORK.Pool() as pool:
        for (mutation, _), reported in zip(all_mutations, pool.imap(reported_by, all_mutations)):
            print(f"{mutation[0]:48}  {reported or 'MISSED'}", flush=True)
            missed += reported is None
    total = len(all_mutations)
    print(f"{'FAILED' if missed else 'ok':6}  {time.monotonic() - begun:5.1f} s  {total - missed} of {total} mutations reported")
    return not missed


def reported_by(mutation_and_checks):
    """The first of the checks that reports a mutation, with its words; `None` if none does."""
    (_, file, old, new), checks = mutation_and_checks
    texts = originals()
    assert old in texts[file], f"{file} no longer contains {old!r}: update the mutation"
    texts[file] = texts[file].replace(old, new)
    with tempfile.TemporaryDirectory() as folder:
        try:
            subject = Subject(Path(folder), texts)
        except Exception as error:
            return f"translation by SAM: {error}"[:140]
        for check in checks:
            if found := problems(check, subject):
                return f"{check}: {found[0]}"[:140]
    return None


def originals():
    return {name: (INFRA / name).read_text() for name in (mutations.TEMPLATE, mutations.MACHINE, mutations.TASKS)}


if __name__ == "__main__":
    good = check_all()
    if "--mutations" in sys.argv[1:]:
        good &= check_mutations()
    sys.exit(not good)
