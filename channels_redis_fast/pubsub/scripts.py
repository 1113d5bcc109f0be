"""
The Lua scripts of the Pub/Sub layer: they record a message in its group's history and publish it, or change who is
present in a group and publish that. Text only, no I/O.

One script does both, so that positions rise in the order in which messages are published.
"""

from __future__ import annotations

from ..connection.script import Script
from ..history.placement import ENTRY_IN_LUA
from ..history.scripts import RECORD, TURNS
from ..presence.scripts import changing
from ..subscriptions.dialect import Dialect

#: KEYS: the stream. ARGV: the Redis channel; the arguments of ``append``; and for each message: the header of its map
#: with one more entry, the index (from 1) at which the part after the header begins in the stored message, and the
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
    -- An error alone says that none of the messages was published.
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

#: KEYS: the stream, the turn. ARGV: the Redis channel; the arguments of ``append``; the sender; the ID that the same
#: sender proposed just before, or empty if that one is known to be recorded (if it is not recorded, these messages must
#: wait for it); and for each message: its proposed ID, and the message with that position in it.
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
    Return the script that fills in positions, for messages in our own msgpack.

    The script returns how many messages were published. If that is not all, it also returns what was wrong with the
    next one.
    """
    return Script(_FILLED.replace("PUBLISH", dialect.publish.decode()).replace("ENTRY", ENTRY_IN_LUA))


def proposed(dialect: Dialect) -> Script:
    """
    Return the script for messages into which their sender has put positions.

    The script returns how many messages were published. If that is not all, it also returns what was wrong with the
    next one: the stream's newest ID, if the proposed ID was not above it, or an error. It returns -1 if it is another
    sender's turn, and -2 if the messages before these were not recorded.
    """
    return Script(_PROPOSED.replace("PUBLISH", dialect.publish.decode()))


#: Changes who is present, and publishes the events. The argument of ``deliver``: the Redis channel of the group.
CHANGE_AND_PUBLISH = changing(
    """
local function deliver(entries)
  return type(redis.pcall('PUBLISH', ARGV[8], '\\133' .. entries)) == 'number'
end
"""
)
