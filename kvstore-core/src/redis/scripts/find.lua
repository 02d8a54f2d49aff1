-- Looks a job up in a partition's log.
--
-- KEYS  1 queue, 2 jobs
-- ARGV  1 position, 2 its major number
-- Says  {whether the job was accepted (1, 0), attempts, an entry with the job alone, if it is held}
local known = redis.call('HMGET', KEYS[1], 'major', 'minor', 'head', 'attempts', 'trimmed', 'ended:' .. ARGV[2])
local major, minor = parts(ARGV[1])
-- A numbering that never began here accepted nothing here: its history is lost.
local last = known[1] == ARGV[2] and known[2] or known[6] or '0'
if minor == 0 or minor > tonumber(last) then
  return { 0, 0, {} }
end
local attempts = known[3] == ARGV[1] and known[4] or '0'
local trimmed, held = known[5] or '0-0', {}
local entry = redis.call('XRANGE', KEYS[2], ARGV[1], '+', 'COUNT', 1)[1]
if entry and is_before(trimmed, ARGV[1]) then
  local last_major, last_minor = parts(entry[1])
  local fields = entry[2]
  local place = #fields - 2 * (last_minor - minor)
  if major == last_major and place > 4 then
    held = { { ARGV[1], { fields[1], fields[2], fields[3], fields[4], fields[place - 1], fields[place] } } }
  end
end
return { 1, attempts, held }
