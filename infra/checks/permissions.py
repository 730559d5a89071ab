"""Which permissions the code's calls of DynamoDB need.

Every function of the store that sends something stands here, with what it sends to which table. Whatever the source sends and
this table does not know fails the check, so each new call is decided upon. Who reaches a function follows from the source.
"""

from functools import cache

EVENTS, INDEX, ROWS, PARKED = "the event store", "its index GSI1", "the read models", "the parking table"

# (file, function): {table: what is sent there}. Actions of transactions are `put`, `update`, `delete`, `get`.
SENT = {
    ("audit", "rows_at_once"): {ROWS: {"transact_get_items", "get"}},
    ("cursors", "cursor_items"): {PARKED: {"query"}},
    ("cursors", "delete_cursor"): {PARKED: {"delete"}},
    ("cursors", "save_cursor"): {PARKED: {"put_item"}},
    ("events", "append"): {EVENTS: {"transact_write_items"}},
    ("events", "current_version"): {EVENTS: {"get_item"}},
    ("events", "import"): {EVENTS: {"put_item", "update_item"}},
    ("events", "keys_since"): {INDEX: {"query"}},
    ("events", "load_by_type"): {INDEX: {"query"}},
    ("events", "load_page"): {EVENTS: {"query"}},
    ("events", "move_version"): {EVENTS: {"update"}},
    ("events", "put_new"): {EVENTS: {"put"}},
    ("events", "scan_events"): {EVENTS: {"scan"}},
    ("parking", "forget_parked"): {PARKED: {"delete"}},
    ("parking", "parked"): {PARKED: {"scan"}},
    ("parking", "parking_actions"): {PARKED: {"put", "update"}},
    ("parking", "parking_items"): {PARKED: {"query"}},
    ("parking", "write_parking"): {PARKED: {"transact_write_items"}},
    # What it reads is told by whoever calls it: rows, or the events that `standing_on_events` looks for.
    ("rows", "batch_get"): {ROWS: {"batch_get_item"}},
    ("audit", "standing_on_events"): {EVENTS: {"batch_get_item"}},
    ("rows", "commit_one"): {ROWS: {"update_item"}},
    ("rows", "scan_items"): {ROWS: {"scan"}},
    ("rows", "transact"): {ROWS: {"transact_write_items"}},
    ("rows", "update"): {ROWS: {"update"}},
    ("rows", "update_if"): {ROWS: {"update_item"}},
    ("tables", "create"): {EVENTS: {"create_table"}},
    ("tables", "event_store_items"): {EVENTS: {"describe_table"}},
    ("tables", "event_store_stream"): {EVENTS: {"describe_table"}},
    ("tables", "wait_until_active"): {EVENTS: {"describe_table"}},
}

# Those that send through another function, named here only for the table that it is another's.
THROUGH_ANOTHER = {("audit", "standing_on_events")}

# Reads from whatever table it is given: so who calls it is decided upon, too.
GIVEN_A_TABLE = {"get_all": {"read_rows", "shared_rows", "standing_on_events"}}

# A transaction is allowed by the permissions that its actions need.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html
PERMISSION = {
    "batch_get_item": {"dynamodb:BatchGetItem"},
    "create_table": {"dynamodb:CreateTable"},
    "delete": {"dynamodb:DeleteItem"},
    "describe_table": {"dynamodb:DescribeTable"},
    "get": {"dynamodb:GetItem"},
    "get_item": {"dynamodb:GetItem"},
    "put": {"dynamodb:PutItem"},
    "put_item": {"dynamodb:PutItem"},
    "query": {"dynamodb:Query"},
    "scan": {"dynamodb:Scan"},
    "transact_get_items": set(),
    "transact_write_items": set(),
    "update": {"dynamodb:UpdateItem"},
    "update_item": {"dynamodb:UpdateItem"},
}

# Where each function begins: the worker with a batch, the other with a task.
ENTRANCES = {"WorkerRole": ["worker"], "OperationsRole": ["worker", "rebuild", "sweep", "verify"]}


def problems_of_table(source):
    """Whether the table above knows every call of the source, and no more."""
    calls = source.calls()
    known = {place: set().union(*tables.values()) for place, tables in SENT.items() if place not in THROUGH_ANOTHER}
    for file, function in sorted(calls.keys() | known.keys()):
        in_source, here = calls.get((file, function), set()), known.get((file, function), set())
        if in_source != here:
            yield f"src/store/{file}.rs: {function} sends {sorted(in_source)}, and checks/permissions.py says {sorted(here)}"
    for function, callers in GIVEN_A_TABLE.items():
        if source.inner_callers(function) != callers:
            yield f"{function} is called by {sorted(source.inner_callers(function))}, and checks/permissions.py says {sorted(callers)}"
    if undecided := source.operations() - PERMISSION.keys():
        yield f"`Dynamo` has calls without a permission in checks/permissions.py: {sorted(undecided)}"


@cache
def needed(source, role):
    """{table: permissions} of all that a function can come to from where it begins."""
    modules = source.reached_from(*ENTRANCES[role])
    permissions = {}
    for (file, function), tables in SENT.items():
        if _is_called(source, function, modules, set()):
            for table, sent in tables.items():
                permissions.setdefault(table, set()).update(*(PERMISSION[call] for call in sent))
    return {table: actions for table, actions in permissions.items() if actions}


def _is_called(source, function, modules, seen):
    """Whether one of the modules calls this function of the store, or one of the store's that calls it does."""
    seen.add(function)
    if source.callers(function) & modules:
        return True
    return any(_is_called(source, caller, modules, seen) for caller in source.inner_callers(function) - seen)
