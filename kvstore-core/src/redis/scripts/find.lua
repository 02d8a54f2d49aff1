-- What a partition's log knows of a job.
--
-- KEYS  1 queue, 2 jobs
-- ARGV  1 position, 2 its major number
-- Says  {last number given out, the last job dropped, attempts, the last minor number under that major one if another one is in use
--       ('0' if it never was), the entry that would hold it or false}
local known = redis.call('HMGET', KEYS[1], 'major', 'minor', 'head', 'attempts', 'trimmed', 'ended:' .. ARGV[2])
-- Of a numbering that never began here nothing was accepted here: its history is lost.
local ended = known[6] or (known[1] ~= ARGV[2] and '0')
local attempts = known[3] == ARGV[1] and known[4] or '0'
local entry = redis.call('XRANGE', KEYS[2], ARGV[1], '+', 'COUNT', 1)[1]
return { (known[1] or '0') .. '-' .. (known[2] or '0'), known[5] or '0-0', attempts, ended, entry or false }
