// A round trip with openapi-fetch and the types that openapi-typescript generates. Compiling it is
// half of the test.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

const client = createClient<paths>({ baseUrl: process.argv[2]! });

const put = await client.PUT("/v1/kv/{key}", {
  params: { path: { key: "user:1" }, header: { "If-None-Match": "*" } },
  body: { name: "Ada" },
});
assert.equal(put.response.status, 201);
assert(put.data && "created" in put.data && put.data.created);

const again = await client.PUT("/v1/kv/{key}", {
  params: { path: { key: "user:1" }, header: { "If-None-Match": "*" } },
  body: 1,
});
assert.equal(again.response.status, 412);
assert.equal(again.error?.current_etag, put.data.etag);

const set = await client.POST("/set", { body: { key: "user:2", value: [1, 2.5, null], ttl: 60 } });
assert.equal(set.response.status, 202);
assert(set.data && set.data.message === "Set accepted");
const job: string = set.data.job_id;

const got = await client.GET("/get/{key}", {
  params: { path: { key: "user:2" }, header: { "Sync-Token": job } },
});
assert.deepEqual(got.data, { key: "user:2", value: [1, 2.5, null] });

const ended = await client.GET("/v1/jobs/{id}", { params: { path: { id: job }, query: { wait: 5 } } });
assert.equal(ended.data?.status, "succeeded");

const page = await client.GET("/v1/kv", {
  params: { query: { prefix: "user:", include: "value", count: "1" } },
});
assert.deepEqual(page.data?.keys.map((entry) => entry.key), ["user:1", "user:2"]);
assert.equal(page.data?.count, 2);

const batch = await client.POST("/v1/batch", {
  body: { ops: [{ op: "set", key: "user:3", value: 3 }, { op: "delete", key: "user:1" }] },
});
assert(batch.data && "results" in batch.data);
assert.deepEqual(batch.data.results.map((result) => result.op), ["set", "delete"]);

const removed = await client.DELETE("/v1/kv/{key}", { params: { path: { key: "user:3" } } });
assert(removed.data && "deleted" in removed.data && removed.data.deleted);
const missing = await client.GET("/v1/kv/{key}", { params: { path: { key: "user:3" } } });
assert.equal(missing.response.status, 404);
assert.equal(missing.error?.key, "user:3");
console.log("round trip: ok");
