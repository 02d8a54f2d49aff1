-- Measures what waits in a partition.
--
-- KEYS  1 queue, 2 jobs, 3 requests
-- ARGV  1 skew (ms)
-- Says  {jobs, bytes, age of the oldest (ms) or false, idempotency keys}
local known = redis.call('HMGET', KEYS[1], 'jobs', 'jobs done', 'bytes', 'bytes done', 'time')
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local age = oldest and math.max(store_time(ARGV[1], known[5]) - tonumber(oldest[2][1]), 0)
return {
  math.max(tonumber(known[1] or '0') - tonumber(known[2] or '0'), 0),
  math.max(tonumber(known[3] or '0') - tonumber(known[4] or '0'), 0),
  age or false,
  redis.call('HLEN', KEYS[3]),
}
