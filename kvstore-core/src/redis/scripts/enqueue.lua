-- Appends jobs to a partition's log, each on its own, in their order.
--
-- KEYS  1 queue, 2 jobs, 3 requests, 4 request deadlines, 5 record of the sender
-- ARGV  1 skew (ms), 2 channel, 3 partition, 4 most jobs, 5 most bytes, 6 most idempotency keys,
--       7 its number, 8 how long the answer is remembered (ms), 9 number of jobs, then for each:
--       command, size (bytes), keep the outcome (1, 0), traceparent or '', idempotency key or '', fingerprint, its window (ms)
-- Says  {'ok', major, minor of the first new one, then for each: 'new' (they are numbered on), the position of a job from before,
--       'reused', 'jobs', 'bytes' or 'keys' (full by those)}
local queue, jobs, requests, deadlines, record = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local jobs_max, bytes_max, keys_max = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local answered = answer_before(record, ARGV[7])
if answered then
  return answered
end
local known = redis.call('HMGET', queue, 'major', 'minor', 'jobs', 'bytes', 'jobs done', 'bytes done', 'time')
local major, minor = known[1] or '0', tonumber(known[2] or '0')
local count, bytes = tonumber(known[3] or '0'), tonumber(known[4] or '0')
local count_done, bytes_done = tonumber(known[5] or '0'), tonumber(known[6] or '0')
local now = store_time(ARGV[1], known[7])
redis.call('XLEN', jobs)
local keys = redis.call('HLEN', requests)
redis.call('ZCARD', deadlines)

local answers, next, added = { 'ok', major, int(minor + 1) }, 10, false
for job = 1, tonumber(ARGV[9]) do
  local command, size, keep, trace, key, request, window =
    ARGV[next], tonumber(ARGV[next + 1]), ARGV[next + 2], ARGV[next + 3], ARGV[next + 4], ARGV[next + 5], ARGV[next + 6]
  next = next + 7
  local answer = nil
  if key ~= '' then
    -- Some of those that have ended go with every new one, so the table shrinks faster than it grows.
    for _, ended in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', int(now), 'LIMIT', 0, 10)) do
      redis.call('ZREM', deadlines, ended)
      keys = keys - redis.call('HDEL', requests, ended)
    end
    local before = redis.call('HGET', requests, key)
    if before then
      local position, same, ends = string.match(before, '^(%S+) (%S+) (%d+)$')
      if tonumber(ends) > now then
        answer = same == request and position or 'reused'
      end
    end
  end
  if answer then
    -- A retry is answered whatever the bounds say.
  elseif count - count_done >= jobs_max then
    answer = 'jobs'
  elseif bytes - bytes_done + size > bytes_max then
    answer = 'bytes'
  elseif key ~= '' and keys >= keys_max then
    answer = 'keys'
  else
    minor, count, bytes, added = minor + 1, count + 1, bytes + size, true
    local position = major .. '-' .. int(minor)
    redis.call('XADD', jobs, position, 'command', command, 'keep', keep, 'trace', trace, 'at', int(now),
      'jobs', int(count), 'bytes', int(bytes))
    if key ~= '' then
      local ends = int(now + tonumber(window))
      keys = keys + redis.call('HSET', requests, key, position .. ' ' .. request .. ' ' .. ends)
      redis.call('ZADD', deadlines, ends, key)
    end
    answer = 'new'
  end
  answers[3 + job] = answer
end
if added then
  redis.call('HSET', queue, 'major', major, 'minor', int(minor), 'jobs', int(count), 'bytes', int(bytes), 'time', int(now))
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return remember(record, ARGV[7], answers, ARGV[8])
