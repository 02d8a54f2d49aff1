-- Appends jobs to a partition's log, in order. All accepted jobs form one entry, whose id is the
-- position of the last of them.
--
-- KEYS  1 queue, 2 jobs, 3 requests, 4 request deadlines, 5 request guarantees, 6 record of the
--       sender
-- ARGV  1 skew (ms), 2 channel, 3 partition, 4 most jobs, 5 most bytes, 6 most idempotency keys,
--       7 the sender's number, 8 how long the answer is remembered (ms), 9 number of jobs, 10 their
--       total size, 11 how many have an idempotency key;
--       then for each job: size (bytes), text;
--       then for each idempotency key, in the order of the jobs: number of the job, key,
--       fingerprint, its window (ms), how long of that it makes room for no other key (ms)
-- Says  {'ok', major, minor of the first new job}, and unless all are new, for each job: 'new'
--       (these have consecutive numbers), the position of an earlier job, 'reused', or what is
--       full: 'jobs', 'bytes', or 'keys' and the time until one makes room (ms)
local queue, jobs, requests, deadlines, guarantees, record = unpack(KEYS)
local jobs_max, bytes_max, keys_max = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local asked, size_all, with_key = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local answered = answer_before(record, ARGV[7], ARGV[8])
if answered then
  return answered
end
local known = look('HMGET', queue, 'major', 'minor', 'jobs', 'bytes', 'jobs done', 'bytes done', 'time', 'run')
local now, time = store_time(ARGV[1], known[7])
local refused = refusal(known[8], known[7], now)
if refused then
  return refused
end
local major, minor = known[1] or '0', tonumber(known[2] or '0')
local count, bytes = tonumber(known[3] or '0'), tonumber(known[4] or '0')
local count_done, bytes_done = tonumber(known[5] or '0'), tonumber(known[6] or '0')
local answer = { 'ok', major, int(minor + 1) }

-- Appends `taken` jobs, sizes and texts, after those accepted before. The first command fails if its
-- key has the wrong type, and nothing is written then, unless something was before.
local function append(taken, ...)
  local last, size = major .. '-' .. int(minor + taken), bytes - tonumber(known[4] or '0')
  local before, before_bytes = int(count - taken), int(bytes - size)
  look('XADD', jobs, last, int(now), before, before_bytes, int(size), ...)
  redis.call('HSET', queue, 'major', major, 'minor', int(minor + taken), 'jobs', int(count), 'bytes', int(bytes), 'time', time)
  local message = ARGV[3] .. ' ' .. last
  if size <= CARRIED then
    local carrying = table.concat({ message, int(now), before, before_bytes, int(size), ... }, '\n')
    message = #carrying <= CARRIED and carrying or message
  end
  publish(ARGV[2], message)
end

if with_key == 0 and count - count_done + asked <= jobs_max and bytes - bytes_done + size_all <= bytes_max then
  count, bytes = count + asked, bytes + size_all
  append(asked, unpack(ARGV, 12, 11 + 2 * asked))
  return remember(record, ARGV[7], answer, ARGV[8])
end

look('XLEN', jobs)
local keys = look('HLEN', requests)
look('ZCARD', deadlines)
look('ZCARD', guarantees)
local next_key, taken, fields = 12 + 2 * asked, 0, {}

-- Forgets up to ten keys whose time in `by_time` has passed.
local function forget(by_time)
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', by_time, '-inf', int(now), 'LIMIT', 0, 10)) do
    redis.call('ZREM', deadlines, key)
    redis.call('ZREM', guarantees, key)
    keys = keys - redis.call('HDEL', requests, key)
  end
end

for job = 1, asked do
  local size, text, key, request, window, minimum = ARGV[10 + 2 * job], ARGV[11 + 2 * job], false, nil, nil, nil
  if ARGV[next_key] == tostring(job) then
    key, request, window, minimum = unpack(ARGV, next_key + 1, next_key + 4)
    next_key = next_key + 5
  end
  local word = nil
  if key then
    -- Each new key removes up to ten expired ones, so the table shrinks faster than it grows.
    forget(deadlines)
    local before = redis.call('HGET', requests, key)
    if before then
      local position, same, ends = string.match(before, '^(%S+) (%S+) (%d+)$')
      if tonumber(ends) > now then
        word = same == request and position or 'reused'
      end
    end
  end
  if key and not word and keys >= keys_max then
    forget(guarantees)
  end
  if word then
    -- A retry is answered even when the queue is full.
  elseif count - count_done >= jobs_max then
    word = 'jobs'
  elseif bytes - bytes_done + tonumber(size) > bytes_max then
    word = 'bytes'
  elseif key and keys >= keys_max then
    local first = redis.call('ZRANGEBYSCORE', guarantees, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    word = 'keys ' .. int(math.max(tonumber(first[2]) - now, 0))
  else
    taken, count, bytes = taken + 1, count + 1, bytes + tonumber(size)
    push(fields, size, text)
    if key then
      local ends = int(now + tonumber(window))
      local position = major .. '-' .. int(minor + taken)
      keys = keys + redis.call('HSET', requests, key, position .. ' ' .. request .. ' ' .. ends)
      redis.call('ZADD', deadlines, ends, key)
      redis.call('ZADD', guarantees, int(now + math.min(tonumber(window), tonumber(minimum))), key)
    end
    word = 'new'
  end
  answer[3 + job] = word
end
if taken > 0 then
  append(taken, unpack(fields))
end
return remember(record, ARGV[7], answer, ARGV[8])
