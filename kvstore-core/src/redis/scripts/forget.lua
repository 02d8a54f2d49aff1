-- Drops a dead letter. Its outcome stays as a trace: without it the job would look like a success.
--
-- KEYS  1 letters, 2 letter index, 3 state
-- ARGV  1 letter
-- Says  whether it was there (1, 0)
local text = redis.call('HGET', KEYS[1], ARGV[1])
if text then
  local bytes = #text - string.find(text, ' ', 1, true)
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HINCRBY', KEYS[3], 'letters', -bytes)
end
return redis.call('HDEL', KEYS[1], ARGV[1])
