-- Second part of the script: asks and their errands.

-- Gives back, renews or releases; what is not held is passed over, and told when it is to be renewed.
local function run(errand, count, cost, hold, age)
  -- From the oldest hits of a log, which are over first: whichever it was, what counts at any later instant is enough.
  local function give_back_log(k, amount)
    local base, first = (bases[k] or 0) + amount, firsts[k]
    bases[k], added[k] = base, added[k] and min(added[k], used[k])
    if first and unpack_struct('<d', raws[k], #raws[k] - 31) > base then
      firsts[k] = search(raws[k], first, 8, base)
    else
      firsts[k] = nil
    end
  end

  local function give_back(k, l, amount, age)
    local kind = kinds[l]
    if kind == SLOTS or kind == SLIDING and age >= windows[l] or kind == FIXED and age > now % windows[l] then return end
    if kind == BUCKET then amount = max(0, amount - age * rates[l]) end
    amount = min(amount, used[k])
    if amount == 0 then return end
    used[k], changed[k] = used[k] - amount, l
    if kind == SLIDING then give_back_log(k, amount) end
  end

  local lost
  for i = 0, count - 1 do
    local k, l = input[at + 2 * i], input[at + 1 + 2 * i]
    if not used[k] then open(k, l) end
    if errand == REFUND then
      give_back(k, l, cost * units[l], age)
    elseif kinds[l] == SLOTS then
      local place = place_of(k, hold)
      if place and errand == RENEW then
        enter(k, l, hold)
      elseif place then
        leave(k, l, place)
      elseif errand == RENEW and marks[l] % 2 == 0 then
        lost = lost or {}
        lost[i] = true
      end
    end
  end
  return lost and NEVER or ALLOWED, lost
end

local function longer(its, verdict)
  if verdict == NEVER then return false end
  return its == NEVER or verdict ~= UNKNOWN and (its == UNKNOWN or its > verdict)
end

local function takes(l, i, verdict, violated)
  return marks[l] >= 2 or verdict == ALLOWED and not violated[i]
end

local function decide()
  local out, size = { now, 0 }, #input
  local n = 2
  while at <= size do
    local count, cost, errand = input[at], input[at + 1], input[at + 2]
    local hold, age = NOBODY, 0
    at = at + 3
    if errand > 0 then
      age, hold = input[at], pack('<dd', input[at], input[at + 1])
      at = at + 2
    end
    local verdict, slowest, violated = ALLOWED, 0, nil
    local last = at + 2 * count - 1
    if errand > TAKE then
      verdict, violated = run(errand, count, cost, hold, age)
      cost = 0
    else
      local wanted_cost = cost > 0 and cost or max(-cost, 1)
      for place = at, last, 2 do
        local k, l = input[place], input[place + 1]
        if not used[k] then open(k, l) end
        local wanted = wanted_cost * units[l]
        if kinds[l] == SLOTS then wanted = place_of(k, hold) and -used[k] or 1 end
        if used[k] + wanted > capacities[l] then
          local i = (place - at) / 2
          violated = violated or {}
          violated[i] = true
          if marks[l] % 2 == 0 then
            local its = wanted > capacities[l] and NEVER or wait(k, l, wanted)
            if longer(its, verdict) then verdict, slowest = its, i end
          end
        end
      end
    end
    out[n + 1], out[n + 2], out[n + 3] = verdict, slowest, violated and 1 or 0
    n = n + 3
    for place = at, last, 2 do
      local k, l = input[place], input[place + 1]
      local unit = units[l]
      if cost > 0 and (not violated or takes(l, (place - at) / 2, verdict, violated)) then
        if kinds[l] == SLOTS then
          enter(k, l, hold)
        else
          local taken = cost * unit
          used[k], changed[k] = used[k] + taken, l
          if kinds[l] == SLIDING then added[k] = (added[k] or 0) + taken end
        end
      end
      local left = capacities[l] - used[k]
      -- Where denied asks count (and it is no shadow), it is told how much was counted beyond the limit.
      if left < 0 and marks[l] ~= 2 then left = 0 end
      out[n + 1] = (left - left % unit) / unit
      local its_reset = reset(k, l)
      if violated and violated[(place - at) / 2] then its_reset = -1 - its_reset end
      out[n + 2] = its_reset
      n = n + 2
    end
    at = last + 1
  end
  for k, l in pairs(changed) do save(k, l) end
  return out
end
