"""What no JSON Schema can say of a valid request, said here: which values are of our own making, and which go together."""

import itertools
import os

import schemathesis

numbers = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    generation = case.meta.generation if case.meta else None
    if generation is not None and generation.mode.is_negative:
        return
    headers = case.headers
    # Under one key there is one request.
    if headers and "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = f"request-{next(numbers)}"
    # Whatever their pattern says, Schemathesis takes an empty one for good at times.
    for name in ("If-Match", "If-None-Match"):
        if headers and headers.get(name) == "":
            del headers[name]
    # A write takes one of the two.
    if headers and case.method in ("PUT", "PATCH", "POST", "DELETE") and "If-Match" in headers:
        headers.pop("If-None-Match", None)
    # Only a number can be added to, and a new key counts as one.
    if case.method == "POST" and case.path == "/v1/kv/{key}":
        case.path_parameters["key"] = f"counter-{next(numbers)}"
    # Without a body, a patch is a new deadline.
    if case.method == "PATCH" and not isinstance(case.body, (dict, list, str, int, float, bool)):
        query = case.query or {}
        case.query = {**query, "ttl": query.get("ttl", 60)}
    # Deleting by prefix needs one.
    if case.method == "DELETE" and case.path == "/v1/kv":
        query = case.query or {}
        case.query = {**query, "prefix": query.get("prefix") or "none:"}
    # Tokens and cursors are those that were handed out.
    if headers and "Sync-Token" in headers:
        headers["Sync-Token"] = os.environ["KVSTORE_JOB"]
    if case.query and "after" in case.query:
        case.query["after"] = [os.environ["KVSTORE_JOB"]]
    if case.query:
        case.query.pop("cursor", None)
    # No key twice, and no addition to what another request has written.
    if case.path == "/v1/batch" and isinstance(case.body, dict):
        for operation in case.body["ops"]:
            if operation["op"] == "add":
                operation["key"] = f"counter-{next(numbers)}"
        operations = {operation["key"]: operation for operation in case.body["ops"]}
        case.body["ops"] = list(operations.values())
