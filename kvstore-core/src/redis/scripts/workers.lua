-- Says who shares the partitions, the asking worker included, and forgets who has not asked in time.
--
-- KEYS  1 workers
-- ARGV  1 skew (ms), 2 worker, 3 how long it counts (ms), 4 channel
local now = server_time(ARGV[1])
local come = redis.call('ZADD', KEYS[1], int(now + tonumber(ARGV[3])), ARGV[2])
local gone = redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', int(now))
if come + gone > 0 then
  redis.call('PUBLISH', ARGV[4], 'claims')
end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '+inf')
