-- Last part of the script: what was admitted without this server, and the answer.

local out
if ARGV[1] == 'decide' then
  out = decide()
else
  -- Two logs as one, in order. `values` is a dump: 0, then instants with running totals; an amount below 0 takes back what
  -- was taken at that instant.
  local function merge_logs(k, values)
    local amounts, instants, before = {}, {}, bases[k] or 0
    local function tally(when, amount)
      if not amounts[when] then instants[#instants + 1] = when end
      amounts[when] = (amounts[when] or 0) + amount
    end
    if firsts[k] then
      for position = firsts[k], #raws[k] - 39, 16 do
        local when, total = unpack_struct('<dd', raws[k], position)
        tally(when, total - before)
        before = total
      end
    end
    before = 0
    for i = 2, #values, 2 do
      tally(values[i], values[i + 1] - before)
      before = values[i + 1]
    end
    table.sort(instants)
    local parts, total = {}, 0
    for _, when in ipairs(instants) do
      if amounts[when] > 0 then
        total = total + amounts[when]
        parts[#parts + 1] = pack('<dd', when, total)
      end
    end
    return table.concat(parts)
  end

  local function settle_log(k, l, values)
    local log = merge_logs(k, values)
    if log == '' then
      call('DEL', names[k])
    else
      put(k, l, log .. pack('<dd', 0, 1))
    end
  end

  local function settle_count(k, l, when, value)
    local drained = max(0, now - when) * rates[l]
    if kinds[l] == FIXED then
      if when < now - now % windows[l] then return end
    else
      value = value > 0 and max(0, value - drained) or min(0, value + drained)
    end
    used[k] = max(0, used[k] + value)
    save(k, l)
  end

  -- Deadlines with their holds, to be put beside those that are there.
  local function settle_slots(k, l, values)
    local untils, holds = {}, {}
    local function put(when, hold)
      if when <= now then return end
      if not untils[hold] then holds[#holds + 1] = hold end
      untils[hold] = max(untils[hold] or 0, min(when, now + windows[l]))
    end
    for position = 1, #(logs[k] or ''), 24 do
      put(unpack_struct('<d', logs[k], position), sub(logs[k], position + 8, position + 23))
    end
    for i = 1, #values, 3 do put(values[i], pack('<dd', values[i + 1], values[i + 2])) end
    table.sort(holds, function(a, b) return untils[a] < untils[b] end)
    for i, hold in ipairs(holds) do holds[i] = pack('<d', untils[hold]) .. hold end
    logs[k], used[k] = table.concat(holds), #holds
    save(k, l)
  end

  local function settle()
    for k = 1, #names do
      local l, size = input[at], input[at + 1]
      local values = {}
      -- One by one: there may be more than fit the stack.
      for i = 1, size do values[i] = input[at + 1 + i] end
      at = at + 2 + size
      open(k, l)
      if kinds[l] == SLIDING then
        settle_log(k, l, values)
      elseif kinds[l] == SLOTS then
        settle_slots(k, l, values)
      else
        settle_count(k, l, values[1], values[2])
      end
    end
    return { now, 0 }
  end

  out = settle()
end
if number_key then out[2] = tonumber(call('SET', number_key, ARGV[3], 'EX', NUMBER_LIVES, 'GET') or 0) end
return integers(out)
