-- Counts the tries of the job at the head of a partition.
--
-- KEYS  1 queue
-- ARGV  1 position, 2 what to add (1, -1)
-- Says  how many there are
local known = redis.call('HMGET', KEYS[1], 'head', 'attempts')
local attempts = known[1] == ARGV[1] and tonumber(known[2]) or 0
attempts = math.max(attempts + tonumber(ARGV[2]), 0)
redis.call('HSET', KEYS[1], 'head', ARGV[1], 'attempts', int(attempts))
return attempts
