-- Takes, renews or gives up a partition.
--
-- KEYS  1 claim
-- ARGV  1 skew (ms), 2 worker, 3 how long it lasts (ms), 0 to give it up, 4 channel
-- Says  1 if the worker holds it now, 0 if not
local now = server_time(ARGV[1])
local known = redis.call('HMGET', KEYS[1], 'worker', 'until')
local free = not known[1] or tonumber(known[2]) <= now
if ARGV[3] == '0' then
  if known[1] == ARGV[2] then
    redis.call('DEL', KEYS[1])
    redis.call('PUBLISH', ARGV[4], 'claims')
  end
  return 0
end
if known[1] ~= ARGV[2] and not free then
  return 0
end
redis.call('HSET', KEYS[1], 'worker', ARGV[2], 'until', int(now + tonumber(ARGV[3])))
return 1
