-- Tells a partition which queue is active, unless it knows of a later decision.
--
-- KEYS  1 state
-- ARGV  1 queue, 2 the number of the decision
if tonumber(redis.call('HGET', KEYS[1], 'adopted') or '0') < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'queue', ARGV[1], 'adopted', ARGV[2])
end
return redis.call('HGET', KEYS[1], 'queue')
