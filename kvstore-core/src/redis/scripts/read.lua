-- Entries of a partition's log that hold jobs behind a position. The first may begin before it.
--
-- KEYS  1 queue, 2 jobs, 3 state
-- ARGV  1 position, 2 jobs and 3 bytes after which to stop (an entry is never cut), 4 the field of the
--       state that holds the store's position, '' if the store is elsewhere or its position does not matter
-- Says  {the last job dropped, the store's position or '', entries}; no entries if the store beside the
--       queue is not as far: another server has taken the place of the one that the caller knows
local after, most, room, found = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), {}
local trimmed, applied = redis.call('HGET', KEYS[1], 'trimmed') or '0-0', ''
if ARGV[4] ~= '' then
  applied = redis.call('HGET', KEYS[3], ARGV[4]) or '0-0'
  if is_before(applied, after) then
    return { trimmed, applied, found }
  end
end
local jobs_before, bytes_before
while true do
  local part = redis.call('XRANGE', KEYS[2], '(' .. after, '+', 'COUNT', 16)
  for _, entry in ipairs(part) do
    local jobs, bytes = tonumber(entry[2][4]), tonumber(entry[2][6])
    jobs_before = jobs_before or jobs - (#entry[2] - 6) / 2
    bytes_before = bytes_before or bytes
    found[#found + 1] = entry
    after = entry[1]
    if jobs - jobs_before >= most or bytes - bytes_before >= room then
      part = {}
      break
    end
  end
  if #part < 16 then
    break
  end
end
return { trimmed, applied, found }
