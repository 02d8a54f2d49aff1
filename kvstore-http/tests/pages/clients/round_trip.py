"""A round trip with the client that openapi-python-client generates, checked with the models of
datamodel-code-generator."""

import sys

import models
from kvstore_client import Client
from kvstore_client.api.entries import batch, delete_entry, get_entry, list_entries, put_entry
from kvstore_client.api.jobs import get_job
from kvstore_client.api.simple import get, set_
from kvstore_client.models import Batch, BatchDelete, BatchSet, Problem, Set

client = Client(base_url=sys.argv[1])

put = put_entry.sync("user:1", client=client, body={"name": "Ada"}, if_none_match="*")
assert put.created is True and put.key == "user:1", put
models.Put.model_validate(put.to_dict())
again = put_entry.sync_detailed("user:1", client=client, body=1, if_none_match="*")
assert again.status_code == 412 and isinstance(again.parsed, Problem), again
assert again.parsed.current_etag == put.etag, again.parsed
assert get_entry.sync("user:1", client=client) == {"name": "Ada"}

queued = set_.sync_detailed(client=client, body=Set(key="user:2", value=[1, 2.5, None], ttl=60))
assert queued.status_code == 202 and queued.parsed.message == "Set accepted", queued
models.SimpleQueued.model_validate(queued.parsed.to_dict())
got = get.sync("user:2", client=client, sync_token=queued.parsed.job_id)
assert got.key == "user:2" and got.value == [1, 2.5, None], got
job = get_job.sync(queued.parsed.job_id, client=client, wait=5)
assert job.status == "succeeded", job
models.Job.model_validate(job.to_dict())

page = list_entries.sync(client=client, prefix="user:", include="value", count="1")
assert [entry.key for entry in page.keys] == ["user:1", "user:2"] and page.count == 2, page
models.Page.model_validate(page.to_dict())

ops = [BatchSet(op="set", key="user:3", value=3), BatchDelete(op="delete", key="user:1")]
applied = batch.sync(client=client, body=Batch(ops=ops))
assert [result.op for result in applied.results] == ["set", "delete"], applied
models.BatchApplied.model_validate(applied.to_dict())
deleted = delete_entry.sync("user:3", client=client)
assert deleted.deleted is True, deleted
missing = get_entry.sync("user:3", client=client)
assert isinstance(missing, Problem) and missing.key == "user:3", missing
models.Problem.model_validate(missing.to_dict())
print("round trip: ok")
