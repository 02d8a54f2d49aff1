-- Reads a page of a partition's dead letters.
--
-- KEYS  1 letters, 2 letter index
-- ARGV  1 first (as ZRANGEBYLEX takes it), 2 most
-- Says  {letter, text} of each
local page = {}
for _, letter in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], '+', 'LIMIT', 0, ARGV[2])) do
  page[#page + 1] = { letter, redis.call('HGET', KEYS[1], letter) }
end
return page
