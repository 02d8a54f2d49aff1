-- Returns the workers that share the partitions, including the caller, and forgets those that have
-- not called in time. It also forgets a heartbeat that is dated further ahead than its period: a
-- clock was set back, or another server with another clock has taken over.
--
-- KEYS  1 workers
-- ARGV  1 skew (ms), 2 worker, 3 how long its heartbeat counts (ms), 4 channel
local now = server_time(ARGV[1])
local ends = int(now + tonumber(ARGV[3]))
local come = redis.call('ZADD', KEYS[1], ends, ARGV[2])
local gone = redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', int(now)) + redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. ends, '+inf')
if come + gone > 0 then
  publish(ARGV[4], 'claims')
end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '+inf')
