-- Looks a job up in a partition's log.
--
-- KEYS  1 queue, 2 jobs
-- ARGV  1 position, 2 its major number
-- Says  {last number given out, attempts, the last minor number under that major one if another one
--       is in use ('0' if it never was), false or an entry with the job alone}
local known = redis.call('HMGET', KEYS[1], 'major', 'minor', 'head', 'attempts', 'trimmed', 'ended:' .. ARGV[2])
-- A numbering that never began here accepted nothing here: its history is lost.
local ended = known[6] or (known[1] ~= ARGV[2] and '0')
local attempts = known[3] == ARGV[1] and known[4] or '0'
local trimmed, job = known[5] or '0-0', false
local entry = redis.call('XRANGE', KEYS[2], ARGV[1], '+', 'COUNT', 1)[1]
if entry and is_before(trimmed, ARGV[1]) then
  local major, minor = parts(ARGV[1])
  local last_major, last_minor = parts(entry[1])
  local fields = entry[2]
  local place = #fields - 2 * (last_minor - minor)
  if major == last_major and place > 4 then
    job = { ARGV[1], { fields[1], fields[2], fields[3], fields[4], fields[place - 1], fields[place] } }
  end
end
return { (known[1] or '0') .. '-' .. (known[2] or '0'), attempts, ended, job }
