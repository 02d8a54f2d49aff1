-- Informs a partition which queue is active, unless it knows a later decision. Drops what it keeps
-- of the previous queue's jobs, except how far they were applied, so that none is applied twice if
-- that queue is adopted again. Until then its jobs are unknown; after that, forgotten.
--
-- KEYS  1 state, 2 outcomes of the queue that the caller takes for the previous one
-- ARGV  1 queue, 2 the number of the decision, 3 the queue that the caller takes for the previous
--       one
-- Says  the previous queue if it is another one, and nothing has changed; otherwise false
local known = redis.call('HMGET', KEYS[1], 'queue', 'adopted', 'applied:' .. ARGV[3])
if tonumber(known[2] or '0') >= tonumber(ARGV[2]) then
  return false
end
local before = known[1] or ''
if before ~= ARGV[3] then
  return before
end
redis.call('HSET', KEYS[1], 'queue', ARGV[1], 'adopted', ARGV[2])
if before ~= '' and before ~= ARGV[1] then
  redis.call('DEL', KEYS[2])
  redis.call('HDEL', KEYS[1], 'lost:' .. before, 'kept:' .. before)
  if known[3] then
    redis.call('HSET', KEYS[1], 'pruned:' .. before, known[3])
  end
end
return false
