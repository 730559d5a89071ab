"""Ways to break the template, the state machine and what the function answers: (what, file, old text, new text). A check must
report each.

Mutations that the Rust checks report are in tests/end_to_end/infrastructure/mutations.rs.
"""

TEMPLATE, MACHINE, TASKS = "template.yaml", "rebuild.asl.json", "checks/tasks.json"

MUTATIONS = [
    # The state machine.
    ("a segment ends before it is done", MACHINE, "{% $states.input.done %}", "{% true %}"),
    ("the answer is not the next task", MACHINE, '"Output": "{% $states.result.Payload %}"', '"Output": "{% $states.input %}"'),
    ("the first segment is forgotten", MACHINE, "[0..$segments - 1]", "[1..$segments - 1]"),
    ("a child uses a variable of its parent", MACHINE, '"Payload": { "rebuild": "{% $states.input %}" }', '"Payload": { "rebuild": "{% $merge([$states.input, {\'projection\': $projection}]) %}" }'),
    ("parked aggregates are ignored", MACHINE, "$states.input.rebuilt.parked + $states.input.rebuilt.stopped > 0", "$states.input.rebuilt.parked > 0"),
    ("rows that differ are ignored", MACHINE, "$not($states.input.verified.clean)", "false"),
    ("a passing error ends a rebuild", MACHINE, '["Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox.Timedout", "States.Timeout"]', '["States.Timeout"]'),
    ("an invalid task is retried", MACHINE, '"ErrorEquals": ["Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox', '"ErrorEquals": ["InvalidTask", "Unfinished", "Lambda.Unknown", "Runtime.ExitError", "Sandbox'),
    ("nothing is verified", MACHINE, '"Next": "Verify"', '"Next": "Judge"'),
    ("a state is misspelt", MACHINE, '"Default": "RebuildSegment"', '"Default": "RebuildSegments"'),
    ("a field of the language is misspelt", MACHINE, '"ToleratedFailureCount": 0', '"ToleratedFailures": 0'),
    # The function answers something else.
    ("an answer has another name", TASKS, '"clean"', '"isClean"'),
    ("a count has another name", TASKS, '"stopped"', '"halted"'),
    ("a task has another member", TASKS, '"sample"', '"percent"'),
    ("an error has another name", TASKS, '"Unfinished"', '"OutOfTime"'),
    # Settings that only linters know.
    ("the bucket may become public", TEMPLATE, "BlockPublicPolicy: true", "BlockPublicPolicy: false"),
    ("a property of a function is misspelt", TEMPLATE, "MemorySize: 512", "MemorySizes: 512"),
    ("a property of the mapping is misspelt", TEMPLATE, "MaximumBatchingWindowInSeconds:", "MaximumBatchingWindow:"),
    ("a parameter does not exist", TEMPLATE, "BatchSize: !Ref BatchSize", "BatchSize: !Ref RecordsMax"),
    ("a statistic does not exist", TEMPLATE, "Statistic: Maximum", "Statistic: Most"),
    # Wiring that a deployment shows.
    ("a table has another key", TEMPLATE, "AttributeName: accountId", "AttributeName: PK"),
]
