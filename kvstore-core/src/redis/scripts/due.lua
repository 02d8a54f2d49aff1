-- Finds what has expired in a partition, without a write.
--
-- KEYS  1 state, 2 deadlines, 3 outcomes of the queue
-- ARGV  1 skew (ms), 2 most, 3 how long outcomes are kept (ms)
-- Says  {whether outcomes are too old (1, 0), how far the partition's time is ahead of the clock
--       (ms), the names of entries whose deadline has passed}
local now = store_time(ARGV[1], redis.call('HGET', KEYS[1], 'time'))
local oldest = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
return {
  oldest and tonumber(oldest[2][2]) < now - tonumber(ARGV[3]) and 1 or 0,
  math.max(now - server_time(ARGV[1]), 0),
  redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(now), 'LIMIT', 0, ARGV[2]),
}
