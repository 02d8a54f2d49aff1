"""Facts about valid requests that no JSON Schema can express: which values the server creates, and
which values belong together."""

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
    # An idempotency key belongs to one request.
    if headers and "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = f"request-{next(numbers)}"
    # Schemathesis sometimes considers an empty value valid in spite of the pattern.
    for name in ("If-Match", "If-None-Match"):
        if headers and headers.get(name) == "":
            del headers[name]
    # A write with both conditions rarely succeeds.
    if headers and case.method in ("PUT", "PATCH", "POST", "DELETE") and "If-Match" in headers:
        headers.pop("If-None-Match", None)
    # An addition needs a number or a new key.
    if case.method == "POST" and case.path == "/v1/kv/{key}":
        case.path_parameters["key"] = f"counter-{next(numbers)}"
    # A patch without a body sets a deadline.
    if case.method == "PATCH" and not isinstance(case.body, (dict, list, str, int, float, bool)):
        query = case.query or {}
        case.query = {**query, "ttl": query.get("ttl", 60)}
    # A delete by prefix needs a prefix.
    if case.method == "DELETE" and case.path == "/v1/kv":
        query = case.query or {}
        case.query = {**query, "prefix": query.get("prefix") or "none:"}
    # Tokens and cursors must come from the server.
    if headers and "Sync-Token" in headers:
        headers["Sync-Token"] = os.environ["KVSTORE_JOB"]
    if case.query and "after" in case.query:
        case.query["after"] = [os.environ["KVSTORE_JOB"]]
    if case.query:
        case.query.pop("cursor", None)
    # Each key once, and no addition to the value of another request.
    if case.path == "/v1/batch" and isinstance(case.body, dict):
        for operation in case.body["ops"]:
            if operation["op"] == "add":
                operation["key"] = f"counter-{next(numbers)}"
        operations = {operation["key"]: operation for operation in case.body["ops"]}
        case.body["ops"] = list(operations.values())
