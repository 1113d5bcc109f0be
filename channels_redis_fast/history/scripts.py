"""
What Lua does with the stream of a group: it records a message, or reads from a position. Text only, no I/O.

An entry has a field ``h``, and ``m`` with the message unless the entry is a mark. A mark is written when somebody asks
for the newest position of a stream that has none in this epoch, so that "nothing yet" is a position too. ``h`` reads
``epoch predecessor total before``: the epoch in which the entry was written; the ID and the epoch of the previous entry
(``-`` for the first); the size in bytes of all entries so far, including this one; and the size of the entries that
were already gone when that was last checked. The entries read from a position on are complete if each entry names the
previous one as its predecessor (``streams`` checks that).

The epoch is what the caller was told when its connection was opened. It ends while the connection is open if the server
follows another one for a while, or gets its first replica; its replication ID shows that. The check is made for every
reader, and for a sender whose epoch is not that of the newest entry. A caller of an old epoch gets READONLY, the answer
of a server that is not the expected primary: nothing is done, the connection is reopened, and the call is repeated with
current values.

The ID of a stream's first entry has a random number after its milliseconds, so if a stream is deleted and created again
under the same key, the two have no position in common.
"""

from __future__ import annotations

from ..connection.script import Script

#: The assumed size of an entry in bytes, in addition to its message.
OVERHEAD = 100

_NEWEST = """
local call = redis.call

local function newest(key)
  local entry = call('XREVRANGE', key, '+', '-', 'COUNT', '1')[1]
  if not entry then return nil, nil, 0, 0 end
  local epoch, total, before = string.match(entry[2][2] or '', '^(%x+) %S+ (%d+) (%d+)$')
  return entry[1], epoch or '?', tonumber(total or 0), tonumber(before or 0)
end

local function head(epoch, last, last_epoch, total, before)
  -- Lua itself would write numbers from 1e14 on with an exponent.
  return string.format('%s %s %.0f %.0f', epoch, last and last .. '-' .. last_epoch or '-', total, before)
end

local function is_current(tail)
  local known = string.sub(tail, 17)
  if known == '' then return true end
  local told = redis.pcall('INFO', 'replication')
  local id = type(told) == 'string' and string.match(told, 'master_replid:(%x+)')
  return not id or id == known
end

local OUTDATED = {err = 'READONLY The server has become another primary since the connection was opened.'}

local function first_id(seed)
  local now = redis.call('TIME')
  return string.format('%d%03d-%s', now[1], math.floor(now[2] / 1000), seed)
end

local function add(key, last, seed, size, ...)
  local id = last and '*' or first_id(seed)
  local added = redis.pcall('XADD', key, 'MAXLEN', '~', size, id, ...)
  if type(added) == 'table' and not last and string.find(added.err, 'equal or smaller', 1, true) then
    -- All entries of the stream were deleted, but it still remembers its last ID.
    added = redis.pcall('XADD', key, 'MAXLEN', '~', size, '*', ...)
  end
  return added
end
"""

#: Defines a Lua function ``append(key, state, at, id, body)`` for a script that records messages of one stream. ARGV
#: from ``at`` on: messages kept; bytes kept; idle seconds; the end of the position (digest of the group, epoch),
#: followed by the replication ID of that epoch if it is known; a random number for the first entry. ``state``: a table
#: of what ``newest`` returns, which is kept up to date. ``id``: the sender's proposal, empty to let the server choose.
#: It returns the position as text; nil and the newest ID if the proposed one is not newer; nil, nil and an error reply
#: if something is wrong. The script itself has to restart the idle time with EXPIRE.
RECORD = (
    _NEWEST
    + """
local function drop_oldest(key, total, most)
  local gone = 0
  for _ = 1, 1000 do
    local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', '1')[1]
    if not oldest then return total end
    local before = tonumber(string.match(oldest[2][2] or '', ' (%d+) %d+$'))
    before = before and before - OVERHEAD - #(oldest[2][4] or '')
    -- An entry that is not ours, or is older than such an entry, is not part of the total: delete it first.
    if before and before >= 0 and before <= total then
      if total - before <= most then return before end
      gone = before
    end
    redis.call('XDEL', key, oldest[1])
  end
  return gone
end

local function last_id(key)
  local info = redis.pcall('XINFO', 'STREAM', key)
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then return info[at + 1] end
  end
end

local function append(key, state, at, id, body)
  local size, most, tail = ARGV[at], tonumber(ARGV[at + 1]), string.sub(ARGV[at + 3], 1, 16)
  local last, last_epoch, total, before = state[1], state[2], state[3], state[4]
  local epoch = string.sub(tail, -8)
  if last and last_epoch ~= epoch and not is_current(ARGV[at + 3]) then return nil, nil, OUTDATED end
  local bytes = #body + OVERHEAD
  if total + bytes - before > most then before = drop_oldest(key, total, most - bytes) end
  local line = head(epoch, last, last_epoch, total + bytes, before)
  local added
  if id == '' then
    added = add(key, last, ARGV[at + 4], size, 'h', line, 'm', body)
  else
    added = redis.pcall('XADD', key, 'MAXLEN', '~', size, id, 'h', line, 'm', body)
  end
  if type(added) == 'table' then
    if string.find(added.err, 'equal or smaller', 1, true) then
      return nil, last or last_id(key) or '0-0'
    end
    return nil, nil, added
  end
  state[1], state[2], state[3], state[4] = added, epoch, total + bytes, before
  local milliseconds, number = string.match(added, '(%d+)-(%d+)')
  return string.format('%013d-%010d-', milliseconds, number) .. tail
end
"""
).replace("OVERHEAD", str(OVERHEAD))

#: Defines Lua functions for a script with messages whose senders propose IDs. A sender that was overtaken gets the
#: turn, for at most a second: until it has recorded, nobody else may, so its next proposal is the newest.
#: ``is_free(turn, by)`` returns whether a sender, identified by its own text, may record, and whether it holds the
#: turn; ``claim`` gives it the turn, ``pass_on`` takes the turn away. The turn is a stream, because a history needs
#: those commands anyway. Errors with the turn cost time, but no message.
TURNS = """
local function is_free(turn, by)
  local holder = redis.call('XREVRANGE', turn, '+', '-', 'COUNT', '1')[1]
  local is_own = holder and holder[2][2] == by
  return not holder or is_own, is_own
end

local function claim(turn, by)
  redis.pcall('XADD', turn, 'MAXLEN', 1, '*', 'by', by)
  redis.pcall('EXPIRE', turn, 1)
end

local function pass_on(turn)
  redis.pcall('UNLINK', turn)
end
"""

#: Defines a Lua function ``read(key, at)`` for a script that reads. ARGV from ``at`` on: messages kept; idle seconds;
#: the end of the position and the replication ID, as above; a random number for the first entry; where to begin; the
#: maximum number of messages, empty for all. If the beginning is one that XRANGE accepts, the result has the oldest
#: entries, in order. If it is empty, the result has the newest entries and one more, from the newest to the oldest. It
#: returns the ID of the newest entry, which is of this epoch, and the entries.
READ = (
    _NEWEST
    + """
local function read(key, at)
  if not is_current(ARGV[at + 2]) then return OUTDATED end
  local epoch, from, limit = string.sub(ARGV[at + 2], 9, 16), ARGV[at + 4], tonumber(ARGV[at + 5])
  local last, last_epoch, total, before = newest(key)
  if last_epoch ~= epoch then
    last = add(key, last, ARGV[at + 3], ARGV[at], 'h', head(epoch, last, last_epoch, total + OVERHEAD, before))
    if type(last) == 'table' then return last end
  end
  call('EXPIRE', key, ARGV[at + 1])
  local command, to = 'XRANGE', '+'
  if from == '' then
    command, from, to = 'XREVRANGE', '+', '-'
    limit = limit and limit + 1
  end
  local entries, found = {}, 0
  while not limit or found < limit do
    local count = math.min(limit and limit - found or 1000, 1000)
    local part = call(command, key, from, to, 'COUNT', count)
    for _, entry in ipairs(part) do
      entries[#entries + 1] = entry
      if entry[2][3] then found = found + 1 end
    end
    if #part < count then break end
    from = '(' .. part[#part][1]
  end
  return {last, entries}
end
"""
).replace("OVERHEAD", str(OVERHEAD))

#: KEYS: the stream. ARGV: as ``read`` takes it.
READ_ONLY = Script(READ + "return read(KEYS[1], 1)")
