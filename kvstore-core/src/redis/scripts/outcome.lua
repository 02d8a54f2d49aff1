-- Reads what the store knows of a job, all at one moment.
--
-- KEYS  1 state, 2 letters, 3 outcomes of the queue
-- ARGV  1 queue, 2 position, 3 letter
-- Says  {active queue, applied, pruned, lost, letter, fields of the outcome, run of the server that
--       made the last change}, each false if there is none
local known = look('HMGET', KEYS[1], 'queue', 'applied:' .. ARGV[1], 'pruned:' .. ARGV[1], 'lost:' .. ARGV[1], 'run')
local outcome = look('XRANGE', KEYS[3], ARGV[2], ARGV[2])[1]
return { known[1], known[2], known[3], known[4], look('HGET', KEYS[2], ARGV[3]),
  (outcome and outcome[2]) or false, known[5] }
