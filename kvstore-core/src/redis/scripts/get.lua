-- Reads the texts of entries that have not expired, all at one moment.
--
-- KEYS  1 state, then the entries
-- ARGV  1 skew (ms), 2 bytes after which to stop
-- Says  for each entry its text, or false if it is absent
local now, room = store_time(ARGV[1], look('HGET', KEYS[1], 'time')), tonumber(ARGV[2])
local found = {}
for entry = 2, #KEYS do
  local text = look('GET', KEYS[entry])
  found[entry - 1] = live_version(text, now) and text
  room = room - #(text or '')
  if room <= 0 then
    break
  end
end
return found
