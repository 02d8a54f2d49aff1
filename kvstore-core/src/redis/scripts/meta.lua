-- Creates what all processes have to agree on, and returns it.
--
-- KEYS  1 meta
-- ARGV  1 format, 2 partitions to create it with, 3 id of the queue to create it with
-- Says  {format, partitions, queue id}
if redis.call('HSETNX', KEYS[1], 'format', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'partitions', ARGV[2], 'queue', ARGV[3])
end
return redis.call('HMGET', KEYS[1], 'format', 'partitions', 'queue')
