-- The names of entries whose deadline has passed.
--
-- KEYS  1 state, 2 deadlines
-- ARGV  1 skew (ms), 2 most
local now = store_time(ARGV[1], redis.call('HGET', KEYS[1], 'time'))
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(now), 'LIMIT', 0, ARGV[2])
