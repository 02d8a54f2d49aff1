-- Returns the rights that this program needs and the user lacks, as ACL SETUSER takes them.
--
-- ARGV  1 prefix of the keys and channels
local prefix, missing = ARGV[1] .. ':', {}
local function check(right, ...)
  local is_allowed = redis.acl_check_cmd(...)
  if not is_allowed then
    missing[#missing + 1] = right
  end
  return is_allowed
end

-- The user runs EVALSHA already, so a refusal with keys concerns the keys.
local keys = { prefix .. 'meta', prefix .. 'workers', prefix .. '{0}:state', prefix .. '{0}:v:a' }
if check('~' .. prefix .. '*', 'EVALSHA', '', #keys, unpack(keys)) then
  for command in string.gmatch('DEL EXISTS GET GETRANGE HDEL HGET HINCRBY HLEN HMGET HSET HSETNX MGET MSET PEXPIRE SET '
      .. 'XADD XLEN XRANGE XREVRANGE XTRIM '
      .. 'ZADD ZCARD ZLEXCOUNT ZMSCORE ZRANGEBYLEX ZRANGEBYSCORE ZREM ZREMRANGEBYSCORE', '%u+') do
    check('+' .. string.lower(command), command, keys[1])
  end
end
-- INFO is used only where the server has shown its history.
for _, command in ipairs({ 'PING', 'TIME', 'WAIT' }) do
  check('+' .. string.lower(command), command)
end
check('+script|flush', 'SCRIPT', 'FLUSH')
-- Only both checks together show that the channels are refused.
local publishes = check('+publish', 'PUBLISH', prefix .. 'moved', '') and check('+publish', 'PUBLISH', prefix .. 'accepted', '')
local subscribes = check('+subscribe', 'SUBSCRIBE', prefix .. 'moved', prefix .. 'accepted')
if not publishes and not subscribes then
  missing[#missing + 1] = '&' .. prefix .. '*'
end
return missing
