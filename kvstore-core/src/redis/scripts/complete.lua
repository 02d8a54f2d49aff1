-- Drops the jobs up to a position, unless the store beside the queue has not applied them: the caller
-- may know the position of a server that this one has replaced. An entry of the log goes with the last
-- of its jobs.
--
-- KEYS  1 queue, 2 jobs, 3 state
-- ARGV  1 position, 2 jobs and 3 bytes ever accepted up to it, or '' and '' if the caller does not know,
--       4 the field of the state that holds the store's position, '' if the store is elsewhere
-- Says  the store's position, '' if it is elsewhere
local up_to, jobs, bytes = ARGV[1], ARGV[2], ARGV[3]
local applied = ''
if ARGV[4] ~= '' then
  applied = redis.call('HGET', KEYS[3], ARGV[4]) or '0-0'
  if is_before(applied, up_to) then
    return applied
  end
end
if not is_before(redis.call('HGET', KEYS[1], 'trimmed') or '0-0', up_to) then
  return applied
end
local major, minor = parts(up_to)
if jobs == '' then
  local entry = redis.call('XRANGE', KEYS[2], up_to, '+', 'COUNT', 1)[1]
  local last_major, last_minor, left = 0, 0, 0
  if entry then
    last_major, last_minor = parts(entry[1])
    left = last_minor - minor
  end
  if not entry or last_major ~= major or left >= (#entry[2] - 6) / 2 then
    -- It is not in that entry, so the one before ends at it or earlier.
    entry, left = redis.call('XREVRANGE', KEYS[2], up_to, '-', 'COUNT', 1)[1], 0
    if not entry then
      return applied
    end
    up_to = entry[1]
    major, minor = parts(up_to)
  end
  local fields = entry[2]
  jobs, bytes = tonumber(fields[4]) - left, tonumber(fields[6])
  for place = #fields - 1, #fields + 1 - 2 * left, -2 do
    bytes = bytes - tonumber(fields[place])
  end
  jobs, bytes = int(jobs), int(bytes)
end
redis.call('HSET', KEYS[1], 'jobs done', jobs, 'bytes done', bytes, 'trimmed', up_to)
redis.call('XTRIM', KEYS[2], 'MINID', int(major) .. '-' .. int(minor + 1))
return applied
