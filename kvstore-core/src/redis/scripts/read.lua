-- Jobs of a partition behind a position.
--
-- KEYS  1 queue, 2 jobs
-- ARGV  1 position, 2 most, 3 bytes after which to stop (a job is never cut)
-- Says  {the last job dropped, entries}
local after, most, room, found = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), {}
while #found < most and room > 0 do
  local part = redis.call('XRANGE', KEYS[2], '(' .. after, '+', 'COUNT', math.min(most - #found, 16))
  if #part == 0 then
    break
  end
  for _, entry in ipairs(part) do
    found[#found + 1] = entry
    room = room - #entry[2][2]
    after = entry[1]
  end
end
return { redis.call('HGET', KEYS[1], 'trimmed') or '0-0', found }
