-- Drops the jobs up to a position. An entry of the log goes with the last of its jobs.
--
-- KEYS  1 queue, 2 jobs
-- ARGV  1 position, 2 jobs and 3 bytes ever accepted up to it, or '' and '' if the caller does not know
local function parts(position)
  local major, minor = string.match(position, '^(%d+)-(%d+)$')
  return tonumber(major), tonumber(minor)
end
local up_to, jobs, bytes = ARGV[1], ARGV[2], ARGV[3]
local major, minor = parts(up_to)
local trimmed = redis.call('HGET', KEYS[1], 'trimmed') or '0-0'
local trimmed_major, trimmed_minor = parts(trimmed)
if major < trimmed_major or (major == trimmed_major and minor <= trimmed_minor) then
  return 0
end
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
      return 0
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
return redis.call('XTRIM', KEYS[2], 'MINID', int(major) .. '-' .. int(minor + 1))
