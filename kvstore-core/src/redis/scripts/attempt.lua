-- Counts the tries of the job at the head of a partition. A try is counted once, however often it is
-- sent, and only the try that was counted last can be taken back.
--
-- KEYS  1 queue
-- ARGV  1 position, 2 what to add (1, -1), 3 the try's name
-- Says  how many there are
local known = redis.call('HMGET', KEYS[1], 'head', 'attempts', 'try')
local is_head = known[1] == ARGV[1]
local attempts = is_head and tonumber(known[2]) or 0
local is_counted = is_head and known[3] == ARGV[3]
if (ARGV[2] == '1') == is_counted then
  return attempts
end
attempts = math.max(attempts + tonumber(ARGV[2]), 0)
redis.call('HSET', KEYS[1], 'head', ARGV[1], 'attempts', int(attempts), 'try', ARGV[2] == '1' and ARGV[3] or '')
return attempts
