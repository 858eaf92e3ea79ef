-- Moves the counters of one frame: everything is computed first, then committed, all inside one call.
--
-- One script in three files, joined: the counters, here; decide.lua; settle.lua, which ends it.
--
-- KEYS     the frame's distinct counters; before them, in a numbered call, the key that keeps its number.
-- ARGV[1]  "decide" or "settle".
-- ARGV[2]  little-endian doubles: the number of limits, each limit's (kind, capacity, unit, window µs, rate,
--          granularity µs, 1 for a shadow + 2 if denied asks count, µs for which a counter is needed), and then
--          for "decide" the asks: (number of limits, cost, 0 or 1 + the errand, its two numbers if there is one,
--          (key, limit)…)…,
--          for "settle" one (limit, number of values, value…) for each key: a state to add to what is there.
-- ARGV[3]  the number of this call, written down with what it changes so that its sender can tell what a server that was
--          restarted or replaced still knows; empty: not numbered.
-- ARGV[4…] each limit's time to live in ms, longer than needed so that hardly a write has to renew it; and then more
--          counters: those of a cluster's node that lie in other slots than KEYS do. (Redis asks that the KEYS of one call
--          share a slot; a script may use others that are on the node. If one is not, reading it ends the script before
--          anything has been changed.)
--
-- A cost below 0 asks whether as much would pass, and takes nothing.
--
-- Both answer little-endian 64-bit integers: the time in µs, and the number that was written down before, 0 if there was
-- none; "decide" then for each ask (wait µs or -1 allowed or -2 never or -3 unknown, index of the limit that waits longest,
-- 1 if any was violated, (remaining, reset µs; of a violated one -1 - that)…).
--
-- The states and rules are those of model/counters.py; a contract suite holds both to each other. Numbers are doubles:
-- exact below 2^53, which the rules loader sees to.

local FIXED, SLIDING, BUCKET, SLOTS = 1, 2, 3, 4
local ALLOWED, NEVER, UNKNOWN = -1, -2, -3
local TAKE, REFUND, RENEW = 1, 2, 3
local CHUNK = 2000
-- Bytes of a log for which nothing is cut off.
local LITTLE = 512
local NOBODY = struct.pack('<dd', 0, 0)
local NUMBER_LIVES = 7 * 24 * 3600

local pack, unpack_struct, rep, sub = struct.pack, struct.unpack, string.rep, string.sub
local find = string.find
local ceil, max, min = math.ceil, math.max, math.min
local unpack, call = unpack, redis.call

local function numbers(data)
  local values, count = {}, #data / 8
  if count <= CHUNK then
    values = { unpack_struct('<' .. rep('d', count), data) }
    -- What follows them is the position after the last.
    values[count + 1] = nil
    return values
  end
  for first = 1, count, CHUNK do
    local size = min(CHUNK, count - first + 1)
    local part = { unpack_struct('<' .. rep('d', size), data, (first - 1) * 8 + 1) }
    for i = 1, size do values[first + i - 1] = part[i] end
  end
  return values
end

local function integers(values)
  local parts = {}
  for first = 1, #values, CHUNK do
    local last = min(first + CHUNK - 1, #values)
    parts[#parts + 1] = pack('<' .. rep('i8', last - first + 1), unpack(values, first, last))
  end
  return table.concat(parts)
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local input = numbers(ARGV[2])
local kinds, capacities, units, windows, rates, grains, marks, needed = {}, {}, {}, {}, {}, {}, {}, {}
-- The instant that stands for now in a log of each limit.
local stamps = {}
local slotted = false
local at = 2
for l = 1, input[1] do
  kinds[l], capacities[l], units[l] = input[at], input[at + 1], input[at + 2]
  windows[l], rates[l], grains[l] = input[at + 3], input[at + 4], input[at + 5]
  marks[l], needed[l] = input[at + 6], now + input[at + 7]
  stamps[l] = now - now % grains[l] + grains[l] - 1
  slotted = slotted or kinds[l] == SLOTS
  at = at + 8
end

local names, more = KEYS, 4 + input[1]
local number_key = ARGV[3] ~= '' and table.remove(names, 1)
local raws = {}
for first = 1, #names, CHUNK do
  local found = call('MGET', unpack(names, first, min(first + CHUNK - 1, #names)))
  for i = 1, #found do raws[first + i - 1] = found[i] end
end
for i = more, #ARGV do
  names[#names + 1] = ARGV[i]
  raws[#names] = call('GET', ARGV[i])
end

-- What each counter says now: units taken; until when Redis keeps what was read. Of a log besides: the instant of its
-- newest entry, where its live part begins, the total before that, and what this call has added. logs: places taken.
local used, ends, newest, firsts, bases, added, logs = {}, {}, {}, {}, {}, {}, {}
-- Counters to write, each with the limit it was last seen under.
local changed = {}

-- Entries of a log are 16 bytes: the instant, and the running total up to it. After the last one stand the total before
-- the live part, the position where that begins, and until when Redis keeps the log. So a hit is written over the end
-- alone, however long the log is; what is over is cut off once it is the larger part.

-- The first entry, from one on, whose field exceeds a value; it is known that the last one does.
local function search(log, from, field, value)
  local low, high, step, last = from, from, 16, #log - 39
  -- Mostly it is one of the first.
  while high < last and unpack_struct('<d', log, high + field) <= value do
    low, step = high + 16, step * 2
    high = min(high + step, last)
  end
  while low < high do
    local middle = low + (high - low - (high - low) % 32) / 2
    if unpack_struct('<d', log, middle + field) > value then high = middle else low = middle + 16 end
  end
  return low
end

local function open_log(k, l, raw)
  local horizon = now - windows[l]
  local last, total, base, first, till = unpack_struct('<ddddd', raw, #raw - 39)
  if last <= horizon then return end
  if unpack_struct('<d', raw, first) <= horizon then
    first = search(raw, first, 0, horizon)
    base = unpack_struct('<d', raw, first - 8)
  end
  if last >= now + grains[l] then
    -- Time stepped back. Whatever counts, counts from now; written even when nothing passes, or it would for ever.
    changed[k] = l
    last, total, base, first, till = stamps[l], total - base, 0, 1, 0
    raws[k] = pack('<ddddd', last, total, base, first, till)
  end
  used[k], ends[k], newest[k], firsts[k], bases[k] = total - base, till, last, first, base
end

-- Places are 24 bytes each, in the order of their deadlines: the deadline, and the hold.
-- (Making a function takes Lua a tenth of what deciding one ask takes: those of rare frames are made in those.)
local open_slots, place_of, leave, enter
if slotted then
  function open_slots(k, l, raw)
    local first, most = 1, now + windows[l]
    while first < #raw and unpack_struct('<d', raw, first) <= now do first = first + 24 end
    local log = sub(raw, first)
    if log ~= '' and unpack_struct('<d', log, #log - 23) > most then
      -- Time stepped back, or the lease became shorter.
      local parts = {}
      for position = 1, #log, 24 do
        parts[#parts + 1] = pack('<d', min(unpack_struct('<d', log, position), most)) .. sub(log, position + 8, position + 23)
      end
      log, changed[k] = table.concat(parts), l
    end
    logs[k], used[k] = log, #log / 24
  end

  function place_of(k, hold)
    local log, from = logs[k] or '', 1
    while true do
      local found = find(log, hold, from, true)
      if not found then return nil end
      if found % 24 == 9 then return found - 8 end
      from = found + 1
    end
  end

  function leave(k, l, place)
    logs[k] = sub(logs[k], 1, place - 1) .. sub(logs[k], place + 24)
    used[k], changed[k] = used[k] - 1, l
  end

  function enter(k, l, hold)
    local place = place_of(k, hold)
    if place then leave(k, l, place) end
    logs[k] = (logs[k] or '') .. pack('<d', now + windows[l]) .. hold
    used[k], changed[k] = used[k] + 1, l
  end
end

local function open(k, l)
  local kind, raw = kinds[l], raws[k]
  used[k] = 0
  if not raw then return end
  if kind == SLIDING then
    open_log(k, l, raw)
  elseif kind == SLOTS then
    open_slots(k, l, raw)
  else
    local when, value, till = unpack_struct('<ddd', raw)
    ends[k] = till
    if kind == FIXED then
      local start = now - now % windows[l]
      if when >= start then used[k] = value end
      if when > start then changed[k] = l end
    else
      if when > now then
        changed[k] = l
      else
        value = max(0, value - (now - when) * rates[l])
      end
      used[k] = value
    end
  end
end

local function wait(k, l, wanted)
  local kind, window = kinds[l], windows[l]
  if kind == FIXED then return window - now % window end
  if kind == BUCKET then return ceil((used[k] + wanted - capacities[l]) / rates[l]) end
  if kind == SLOTS then return UNKNOWN end
  local first, must_go = firsts[k], used[k] + wanted - capacities[l]
  if first and used[k] - (added[k] or 0) >= must_go then
    -- Totals are integers: at least `must_go` is more than one less.
    local entry = search(raws[k], first, 8, bases[k] + must_go - 1)
    return unpack_struct('<d', raws[k], entry) + window - now
  end
  return stamps[l] + window - now
end

local function reset(k, l)
  local kind, taken = kinds[l], used[k]
  if taken == 0 then return 0 end
  if kind == BUCKET then return ceil(taken / rates[l]) end
  if kind == SLIDING then return (added[k] and stamps[l] or newest[k]) + windows[l] - now end
  if kind == FIXED then return windows[l] - now % windows[l] end
  return unpack_struct('<d', logs[k], #logs[k] - 23) - now
end

-- Writes all of a counter but its end: until when it is kept.
local function put(k, l, state)
  local life = ARGV[l + 3]
  if kinds[l] == BUCKET and used[k] > capacities[l] then
    -- Debts have no limit, and what they took drains away all the same.
    life = string.format('%.0f', max(life, ceil(used[k] / rates[l] / 1000) + 1000))
  end
  call('SET', names[k], state .. pack('<d', now + life * 1000), 'PX', life)
end

local function put_log(k, l)
  local first, base = firsts[k], bases[k] or 0
  local log = first and sub(raws[k], first, -25) or ''
  if added[k] then
    if first and newest[k] == stamps[l] then log = sub(log, 1, -17) end
    log = log .. pack('<dd', stamps[l], base + used[k])
  end
  put(k, l, log .. pack('<dd', base, 1))
end

-- Writes the end of a log in its place.
local function end_log(k, l)
  local size, first, base = #raws[k], firsts[k], bases[k]
  if not added[k] then
    call('SETRANGE', names[k], size - 24, pack('<dd', base, first))
  else
    local place = newest[k] == stamps[l] and size - 40 or size - 24
    call('SETRANGE', names[k], place, pack('<ddddd', stamps[l], base + used[k], base, first, ends[k]))
  end
end

local function save(k, l)
  local kind = kinds[l]
  if used[k] == 0 then
    call('DEL', names[k])
  elseif kind == SLOTS then
    call('SET', names[k], logs[k], 'PX', ARGV[l + 3])
  else
    local kept = ends[k] and ends[k] >= needed[l]
    if kind == SLIDING then
      if kept and firsts[k] and 2 * firsts[k] < max(#raws[k], LITTLE) then end_log(k, l) else put_log(k, l) end
    else
      local state = pack('<dd', kind == FIXED and now - now % windows[l] or now, used[k])
      -- Of a bucket that debts have filled beyond its brim the end is not where it is for others.
      kept = kept and (kind == FIXED or used[k] <= capacities[l])
      if kept then call('SETRANGE', names[k], '0', state) else put(k, l, state) end
    end
  end
end
