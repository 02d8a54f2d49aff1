-- Reads one partition's part of a page of a listing, all at one moment.
--
-- KEYS  1 state, 2 index, 3 deadlines
-- ARGV  1 skew (ms), 2 start of the entries' names, 3 prefix, 4 first (as ZRANGEBYLEX takes it),
--       5 end (likewise), 6 most, 7 delimiter or '', 8 values (1, 0), 9 count (1, 0)
-- Says  {latest version, count or -1, items}: for a key {name, its text (without values: up to the
--       value), size of the value}, for a common prefix {name, false, 0}
--
-- KEYS does not name the entries, which only the index knows: they are in the same slot as the keys
-- that it names, and are only read.
local state, index, deadlines = KEYS[1], KEYS[2], KEYS[3]
local entries, prefix, first, last, most, delimiter, values, count =
  ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8] == '1', ARGV[9] == '1'
local now = store_time(ARGV[1], look('HGET', state, 'time'))

local total = -1
if count then
  total = look('ZLEXCOUNT', index, '[' .. prefix, last)
  for _, name in ipairs(look('ZRANGEBYSCORE', deadlines, '-inf', int(now))) do
    if string.sub(name, 1, #prefix) == prefix then
      total = total - 1
    end
  end
end

-- After a fold the next look-up is for one name, and each look-up without a fold doubles that: all
-- but one of the names below a folded prefix are fetched in vain.
local items, step = {}, delimiter == '' and most or 16
local has_expired = #look('ZRANGEBYSCORE', deadlines, '-inf', int(now), 'LIMIT', 0, 1) > 0
while #items < most do
  local names = look('ZRANGEBYLEX', index, first, last, 'LIMIT', 0, math.min(step, most - #items))
  if #names == 0 then
    break
  end
  step = step * 2
  for _, name in ipairs(names) do
    first = '(' .. name
    local stop, text, version = nil, '', nil
    if delimiter ~= '' then
      _, stop = string.find(name, delimiter, #prefix + 1, true)
    end
    -- The deadline of a folded name matters only while expired entries are still there.
    if not stop or has_expired then
      text = look('GETRANGE', entries .. name, 0, stop and 41 or -1)
      version = live_version(text ~= '' and text, now)
    end
    if stop and (version or not has_expired) then
      local folded = string.sub(name, 1, stop)
      push(items, { folded, false, 0 })
      -- The first text that sorts after everything that starts with `folded`: names are UTF-8, which
      -- has no byte 255.
      first, step = '[' .. string.sub(folded, 1, -2) .. string.char(string.byte(folded, -1) + 1), 1
      break
    elseif version then
      local start = string.match(text, '^%d+ %d+ ()')
      push(items, { name, values and text or string.sub(text, 1, start - 1), #text - start + 1 })
    end
  end
end
return { redis.call('HGET', state, 'version') or '0', total, items }
