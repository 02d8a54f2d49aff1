-- Makes a queue the store's active one (if `only_first` is 1, only where there is none).
--
-- KEYS  1 meta
-- ARGV  1 queue, 2 only_first
-- Says  {the active queue, the number of this decision}
local active = redis.call('HGET', KEYS[1], 'active')
if active ~= ARGV[1] and (not active or ARGV[2] == '0') then
  redis.call('HSET', KEYS[1], 'active', ARGV[1])
  redis.call('HINCRBY', KEYS[1], 'adopted', 1)
end
return redis.call('HMGET', KEYS[1], 'active', 'adopted')
