-- Makes a partition's next job come after a position, unless it would anyway. The jobs that are
-- held then lie behind that position. They are dropped if the store has applied them: the position
-- may be that of a server that this one has replaced, and whose store was further than this one's.
--
-- KEYS  1 queue, 2 jobs, 3 state
-- ARGV  1 major, 2 minor of the position, 3 the field of the state that holds the store's position,
--       '' if the store is elsewhere
local log = redis.call('HMGET', KEYS[1], 'trimmed', 'jobs', 'bytes', 'major', 'minor')
local major, minor = log[4], log[5] or '0'
if not is_before((major or '0') .. '-' .. minor, ARGV[1] .. '-' .. ARGV[2]) then
  return
end
local fields = { 'major', ARGV[1], 'minor', ARGV[2] }
if major and major ~= ARGV[1] then
  fields = { 'major', ARGV[1], 'minor', ARGV[2], 'ended:' .. major, minor, 'before:' .. ARGV[1], major }
end
local applied = ARGV[3] ~= '' and (redis.call('HGET', KEYS[3], ARGV[3]) or '0-0')
local held = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if held and not (applied and is_before(applied, held[1])) then
  drop(KEYS[1], KEYS[2], held[1], nil, log)
end
redis.call('HSET', KEYS[1], unpack(fields))
