-- Drops the jobs up to a position.
--
-- KEYS  1 queue, 2 jobs
-- ARGV  1 position
local last = redis.call('XREVRANGE', KEYS[2], ARGV[1], '-', 'COUNT', 1)[1]
if not last then
  return 0
end
local fields = {}
for place = 1, #last[2], 2 do
  fields[last[2][place]] = last[2][place + 1]
end
local major, minor = string.match(last[1], '^(%d+)-(%d+)$')
redis.call('HSET', KEYS[1], 'jobs done', fields['jobs'], 'bytes done', fields['bytes'], 'trimmed', last[1])
return redis.call('XTRIM', KEYS[2], 'MINID', major .. '-' .. int(tonumber(minor) + 1))
