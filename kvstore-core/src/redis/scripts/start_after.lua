-- Makes a partition's next job come after a position, unless it would anyway. The jobs that are
-- held then lie behind that position. They are dropped if the store has applied them: the position
-- may be that of a server that this one has replaced, and whose store was further than this one's.
--
-- KEYS  1 queue, 2 jobs, 3 state
-- ARGV  1 major, 2 minor of the position, 3 the field of the state that holds the store's position,
--       '' if the store is elsewhere
local known = redis.call('HMGET', KEYS[1], 'major', 'minor', 'jobs', 'bytes')
local last, wanted = (known[1] or '0') .. '-' .. (known[2] or '0'), ARGV[1] .. '-' .. ARGV[2]
if not is_before(last, wanted) then
  return 0
end
local fields = { 'major', ARGV[1], 'minor', ARGV[2] }
if known[1] and known[1] ~= ARGV[1] then
  fields = { 'major', ARGV[1], 'minor', ARGV[2], 'ended:' .. known[1], known[2], 'before:' .. ARGV[1], known[1] }
end
local applied = ARGV[3] ~= '' and (redis.call('HGET', KEYS[3], ARGV[3]) or '0-0')
local held = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if not applied or not held or not is_before(applied, held[1]) then
  push(fields, 'jobs done', known[3] or '0')
  push(fields, 'bytes done', known[4] or '0')
  if held then
    push(fields, 'trimmed', held[1])
    redis.call('XTRIM', KEYS[2], 'MAXLEN', 0)
  end
end
redis.call('HSET', KEYS[1], unpack(fields))
return 1
