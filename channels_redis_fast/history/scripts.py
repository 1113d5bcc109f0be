"""
What Lua does to the stream of a group: record a message, read from a position. Text only, no I/O.

An entry has a field ``h``, and ``m`` with the message unless the entry is a mark: one is written where somebody asks
for the newest position of a stream that has none in this epoch, so that "nothing yet" is a position too. ``h`` reads
``epoch predecessor total before``: the epoch in which the entry was written; the ID and the epoch of the entry before
it (``-`` for the first); the bytes of all entries so far, this one among them; and those of the entries that were
already gone when that was last looked at. What is read from a position on is complete if each entry names the one
before it as its predecessor (``streams`` looks at that).

An epoch is what the caller was told when its connection was opened. It ends under an open connection where the server
follows another one for a while, or gets its first replica: its replication ID tells. Whoever reads is checked, and who
records in another epoch than that of the newest entry. The answer to a caller of an old epoch is READONLY, that of a
server which is not the primary that it was taken for: nothing is done, the connection is opened anew, and the call is
made again with what holds there.

The ID of a stream's first entry has a random number behind its milliseconds: two streams of one key, of which the first
was deleted, have no position in common.
"""

from __future__ import annotations

from ..connection.script import Script

#: Bytes that an entry is taken to have beside its message.
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
  -- Lua itself writes numbers from 1e14 on with an exponent.
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
    -- All entries of a stream were deleted, and it remembers the last ID.
    added = redis.pcall('XADD', key, 'MAXLEN', '~', size, '*', ...)
  end
  return added
end
"""

#: Gives a Lua function ``append(key, state, at, id, body)`` for a script that records messages of one stream. ARGV from
#: ``at`` on: messages kept; bytes kept; seconds of idleness; the end of the position (digest of the group, epoch), and
#: behind it the replication ID of that epoch if it is known; a random number for the first entry. ``state``: a table of
#: what ``newest`` returns, which is kept up to date. ``id``: what the sender proposes, empty for the server to choose.
#: It returns the position as text; nil and the newest ID where the proposed one is not newer; nil, nil and an error
#: reply where something is wrong. The time of idleness is for the script to begin: EXPIRE.
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
    -- An entry that is none of ours, or older than one that was, has not been counted: it goes first.
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

#: Gives Lua functions for a script with messages whose senders propose IDs. Whoever was overtaken gets the turn, for a
#: second at most: until it has recorded, nobody else may, so that its next proposal is the newest.
#: ``is_free(turn, by)`` returns whether somebody, known by a text of its own, may record, and whether the turn is its
#: own; ``claim`` gives it the turn, ``pass_on`` takes it away. The turn is a stream, as those are the commands that a
#: history needs anyway. What goes wrong with it costs time, and no message.
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

#: Gives a Lua function ``read(key, at)`` for a script that reads. ARGV from ``at`` on: messages kept; seconds of
#: idleness; the end of the position and the replication ID, as above; a random number for the first entry; where to
#: begin; how many messages at most, empty for all. From a beginning as XRANGE takes it these are the oldest, in their
#: order; where it is empty, the newest and one more, from the newest to the oldest. It returns the ID of the newest
#: entry, which is of this epoch, and the entries.
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
