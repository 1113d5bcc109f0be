"""
The Lua scripts of a layer's leases: a sorted set of processes by deadline. Text only, no I/O.

Deadlines are seconds by the server's clock. An overdue lease stays listed for as long as anything in Redis can name its
process: a process without a lease belongs to channels_redis, or to a layer without the option.
"""

from __future__ import annotations

from ..connection.script import Script

#: How many overdue leases are read at most: the latest to run out, which include everything that is still named
#: anywhere.
MAX_OVERDUE = 10_000

#: KEYS: the leases. ARGV: the process that renews its lease, empty for a caller that only reads; the duration in
#: seconds; the seconds for which an overdue lease stays listed; the number of overdue leases that the caller knows, and
#: the highest deadline of these as this script returned it. Returns the time; the previous deadline of the lease, false
#: if there was none; its new deadline; the first deadline that is still to come, empty for none; the number of overdue
#: leases, the highest deadline of these, and the overdue processes with their deadlines, or false if the caller knows
#: them (a lease that has run out since has a deadline above all others, and each lease that is gone lowers the number
#: by one).
RENEW = Script(
    """
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
local previous, deadline = false, false
if ARGV[1] ~= '' then
  previous = redis.call('ZSCORE', KEYS[1], ARGV[1])
  deadline = string.format('%.6f', time[1] + time[2] / 1000000 + ARGV[2])
  redis.call('ZADD', KEYS[1], deadline, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. time[1] - ARGV[3])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
local first = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2] or ''
local count = redis.call('ZCOUNT', KEYS[1], '-inf', now)
local last = ''
if count > 0 then
  last = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', count - 1, 1)[2]
end
if count == tonumber(ARGV[4]) and last == ARGV[5] then
  return {now, previous, deadline, first, count, last, false}
end
local left_out = math.max(count - MAX_OVERDUE, 0)
local overdue = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', left_out, MAX_OVERDUE)
return {now, previous, deadline, first, count, last, overdue}
""".replace("MAX_OVERDUE", str(MAX_OVERDUE))
)

#: A process gives its lease back, so that it runs out now. KEYS: the leases. ARGV: the process, and the deadline of its
#: lease as far as it knows. A lease that another event loop has renewed meanwhile is kept.
GIVE_BACK = Script(
    """
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not deadline or tonumber(deadline) ~= tonumber(ARGV[2]) then return 0 end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], string.format('%d.%06d', time[1], time[2]), ARGV[1])
return 1
"""
)
