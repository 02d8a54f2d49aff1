-- Reads the entries of a partition's log that hold jobs behind a position, and drops those up to it
-- if the caller says that they are applied.
--
-- KEYS  1 queue, 2 jobs, 3 state
-- ARGV  1 position, 2 jobs and 3 bytes after which to stop (no jobs: nothing is returned), 4 the
--       field of the state that holds the store's position, '' if the store is elsewhere or its
--       position does not matter, 5 whether to drop (1, 0)
-- Says  {the last job dropped, the store's position or false, entries}; no entries, and nothing is
--       dropped, if the store on this server is not as far: this server has replaced the one that
--       the caller knows
local after, most, applied, found = ARGV[1], tonumber(ARGV[2]), false, {}
local held = look('HMGET', KEYS[1], 'trimmed', 'jobs', 'bytes')
local trimmed = held[1] or '0-0'
if ARGV[4] ~= '' then
  applied = look('HGET', KEYS[3], ARGV[4]) or '0-0'
end
if not applied or not is_before(applied, after) then
  found = entries_behind(KEYS[2], after, most, tonumber(ARGV[3]))
  if ARGV[5] == '1' then
    trimmed = drop(KEYS[1], KEYS[2], after, found[1], held)
  end
end
return { trimmed, applied, most > 0 and found or {} }
