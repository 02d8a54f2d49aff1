-- Takes, renews or releases a partition. A claim that is dated further ahead than its own period
-- has ended: a clock was set back, or another server with another clock has taken over. If the
-- previous worker did not release its claim, it may have ended during a try of the first job, so
-- that try counts. The holder of a partition also drops expired idempotency keys: requests drop
-- them only while more requests come.
--
-- KEYS  1 claim, 2 requests, 3 request deadlines, 4 request guarantees, 5 queue, 6 jobs
-- ARGV  1 skew (ms), 2 worker, 3 how long the claim lasts (ms), 0 to release it, 4 channel, 5 the
--       first job, 6 how many tries of it the worker has counted (0: nothing is recorded)
-- Says  {whether the worker holds the partition now (1, 0), and if it did not before: {the first
--       job, how often it was tried}}
local now = server_time(ARGV[1])
local holder, ends, period = unpack(redis.call('HMGET', KEYS[1], 'worker', 'until', 'period'))
local is_own = holder == ARGV[2]
if is_own and ARGV[6] ~= '0' then
  redis.call('HSET', KEYS[5], 'head', ARGV[5], 'attempts', ARGV[6])
end
if ARGV[3] == '0' then
  if is_own then
    redis.call('DEL', KEYS[1])
    publish(ARGV[4], 'claims')
  end
  return { 0, false }
end
ends = tonumber(ends or '0')
if holder and not is_own and ends > now and ends <= now + tonumber(period or '0') then
  return { 0, false }
end
local ended = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', int(now), 'LIMIT', 0, 1000)
if #ended > 0 then
  redis.call('HDEL', KEYS[2], unpack(ended))
  redis.call('ZREM', KEYS[3], unpack(ended))
  redis.call('ZREM', KEYS[4], unpack(ended))
end
redis.call('HSET', KEYS[1], 'worker', ARGV[2], 'until', int(now + tonumber(ARGV[3])), 'period', ARGV[3])
local first = not is_own and redis.call('XRANGE', KEYS[6], '-', '+', 'COUNT', 1)[1]
if not first then
  return { 1, false }
end
local head, attempts, trimmed = unpack(redis.call('HMGET', KEYS[5], 'head', 'attempts', 'trimmed'))
local major, minor = parts(first[1])
minor = minor - (#first[2] - 4) / 2 + 1
local trimmed_major, trimmed_minor = parts(trimmed or '0-0')
if trimmed_major == major then
  minor = math.max(minor, trimmed_minor + 1)
end
first = int(major) .. '-' .. int(minor)
attempts = (head == first and tonumber(attempts) or 0) + (holder and 1 or 0)
if holder then
  redis.call('HSET', KEYS[5], 'head', first, 'attempts', int(attempts))
end
return { 1, { first, attempts } }
