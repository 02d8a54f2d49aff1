-- Reads the changes of a partition behind a version, all at one moment.
--
-- KEYS  1 state, 2 changes
-- ARGV  1 version, 2 entries and 3 bytes of them after which to stop
-- Says  {{latest version, the version behind the previous raise's gap, the last version before the
--       last raise's gap, the version behind it}, each false if there is none, whether these are all
--       (1, 0), entries}
local entries, bytes, after, is_all = {}, 0, ARGV[1] .. '-0', 0
while is_all == 0 and #entries < tonumber(ARGV[2]) and bytes < tonumber(ARGV[3]) do
  local entry = redis.call('XRANGE', KEYS[2], '(' .. after, '+', 'COUNT', 1)[1]
  if entry then
    push(entries, entry)
    after = entry[1]
    for _, text in ipairs(entry[2]) do
      bytes = bytes + #text
    end
  else
    is_all = 1
  end
end
local known = redis.call('HMGET', KEYS[1], 'version', 'raised before', 'raised from', 'raised to')
return { known, is_all, entries }
