-- Takes, renews or gives up a partition. A claim that is dated further ahead than its own period is
-- over: a clock was set back, or another server with another clock has taken over.
-- Who holds a partition also drops idempotency keys that have ended, which requests do only while more
-- of them come.
--
-- KEYS  1 claim, 2 requests, 3 request deadlines
-- ARGV  1 skew (ms), 2 worker, 3 how long it lasts (ms), 0 to give it up, 4 channel
-- Says  1 if the worker holds it now, 0 if not
local now = server_time(ARGV[1])
local known = redis.call('HMGET', KEYS[1], 'worker', 'until', 'period')
local ends, period = tonumber(known[2] or '0'), tonumber(known[3] or '0')
local free = not known[1] or ends <= now or ends > now + period
if ARGV[3] == '0' then
  if known[1] == ARGV[2] then
    redis.call('DEL', KEYS[1])
    publish(ARGV[4], 'claims')
  end
  return 0
end
if known[1] ~= ARGV[2] and not free then
  return 0
end
local ended = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', int(now), 'LIMIT', 0, 1000)
if #ended > 0 then
  redis.call('HDEL', KEYS[2], unpack(ended))
  redis.call('ZREM', KEYS[3], unpack(ended))
end
redis.call('HSET', KEYS[1], 'worker', ARGV[2], 'until', int(now + tonumber(ARGV[3])), 'period', ARGV[3])
return 1
