"""
What Lua does for the Pub/Sub layer: record a message in its group's history and publish it. Text only, no I/O.

Both are done in one script, so that positions rise in the order in which messages are published.
"""

from __future__ import annotations

from ..connection.script import Script
from ..history.placement import ENTRY_IN_LUA
from ..history.scripts import RECORD
from ..subscriptions.dialect import Dialect

#: KEYS: the stream. ARGV: the Redis channel; what ``append`` takes; and for each message the header of its map with one
#: entry more, where what is behind the header begins in the message as it is kept, the first byte being 1, and the
#: message.
_FILLED = (
    RECORD
    + """
local key, channel = KEYS[1], ARGV[1]
local state, done, wrong = {newest(key)}, 0, nil
for at = 7, #ARGV, 3 do
  local body = ARGV[at + 2]
  local position, newer, failed = append(key, state, 2, '', body)
  if not position then
    -- By itself it says of all of them that they are not done.
    if failed and done == 0 then return failed end
    wrong = failed or newer
    break
  end
  local published = redis.pcall('PUBLISH', channel, ARGV[at] .. string.sub(body, ARGV[at + 1]) .. ENTRY .. position)
  if type(published) == 'table' then
    wrong = published
    break
  end
  done = done + 1
end
redis.call('EXPIRE', key, ARGV[4])
return wrong and {done, wrong} or done
"""
)

#: KEYS: the stream. ARGV: the Redis channel; the ID that its sender has proposed just before, if that is not known to
#: be recorded, else empty: where it is not, this message has to wait for it; then as ``record`` takes it, the message
#: with the position of the proposal in it.
_PROPOSED = (
    RECORD
    + """
if ARGV[2] ~= '' and not redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1] then
  return newest(KEYS[1]) or ''
end
local position, newest, wrong = record(KEYS[1], 3)
if not position then return wrong or newest end
redis.call('PUBLISH', ARGV[1], ARGV[9])
return 1
"""
)


def filled(dialect: Dialect) -> Script:
    """
    Return the script that fills positions in, for messages that are our msgpack.

    It returns how many were published; where that is not all, with what was wrong with the next one.
    """
    return Script(_FILLED.replace("PUBLISH", dialect.publish.decode()).replace("ENTRY", ENTRY_IN_LUA))


def proposed(dialect: Dialect) -> Script:
    """
    Return the script for messages that their senders have put a position in.

    It returns 1, or the stream's newest ID where the proposal is not newer: nothing is done then.
    """
    return Script(_PROPOSED.replace("PUBLISH", dialect.publish.decode()))
