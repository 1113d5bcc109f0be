"""
What Lua does for the Pub/Sub layer: record a message in its group's history and publish it. Text only, no I/O.

Both are done in one script, so that positions rise in the order in which messages are published.
"""

from __future__ import annotations

from ..connection.script import Script
from ..history.placement import ENTRY_IN_LUA
from ..history.scripts import RECORD, TURNS
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

#: KEYS: the stream, the turn. ARGV: the Redis channel; what ``append`` takes; by whom; the ID that was proposed by the
#: same sender just before, if that is not known to be recorded, else empty: where it is not, this has to wait for it;
#: and for each message the ID that is proposed for it, and the message with that position in it.
_PROPOSED = (
    RECORD
    + TURNS
    + """
local key, turn, channel, by = KEYS[1], KEYS[2], ARGV[1], ARGV[7]
local may_record, is_turn = is_free(turn, by)
if not may_record then return -1 end
if ARGV[8] ~= '' and not redis.call('XRANGE', key, ARGV[8], ARGV[8])[1] then return -2 end
local state, done, position, newer, failed = {newest(key)}, 0
for at = 9, #ARGV, 2 do
  position, newer, failed = append(key, state, 2, ARGV[at], ARGV[at + 1])
  if not position then
    if failed and done == 0 then return failed end
    break
  end
  local published = redis.pcall('PUBLISH', channel, ARGV[at + 1])
  if type(published) == 'table' then
    failed = published
    break
  end
  done = done + 1
end
redis.call('EXPIRE', key, ARGV[4])
if newer then claim(turn, by) elseif is_turn then pass_on(turn) end
local wrong = failed or newer
return wrong and {done, wrong} or done
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
    Return the script for messages that their sender has put positions in.

    It returns how many were published; where that is not all, with what was wrong with the next one: the stream's
    newest ID, if its own was not above that, or an error. It returns -1 where it is another's turn, and -2 where what
    goes ahead of them was not recorded.
    """
    return Script(_PROPOSED.replace("PUBLISH", dialect.publish.decode()))
