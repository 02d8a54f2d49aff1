-- Drops a dead letter; whether it was there. Its outcome stays as a trace: without it the job would look like a success.
--
-- KEYS  1 letters, 2 letter index
-- ARGV  1 letter
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
