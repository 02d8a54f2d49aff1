-- Makes a partition's next job come after a position, if it would not anyway. What is held lies behind it then, and is dropped.
--
-- KEYS  1 queue, 2 jobs
-- ARGV  1 major, 2 minor of the position
local known = redis.call('HMGET', KEYS[1], 'major', 'minor', 'jobs', 'bytes')
local major, minor = tonumber(known[1] or '0'), tonumber(known[2] or '0')
if tonumber(ARGV[1]) < major or (tonumber(ARGV[1]) == major and tonumber(ARGV[2]) <= minor) then
  return 0
end
local fields = { 'major', ARGV[1], 'minor', ARGV[2], 'jobs done', known[3] or '0', 'bytes done', known[4] or '0' }
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if last then
  fields[#fields + 1] = 'trimmed'
  fields[#fields + 1] = last[1]
  redis.call('XTRIM', KEYS[2], 'MAXLEN', 0)
end
redis.call('HSET', KEYS[1], unpack(fields))
return 1
