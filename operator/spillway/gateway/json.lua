-- Reads the outermost level of a JSON object and leaves the values as they are. lua.py puts it in front of the scripts
-- that look into bodies.
local find, byte, sub = string.find, string.byte, string.sub

-- position after the string that opens at i, or nil: the next quote with an even number of backslashes before it
local function after_string(s, i)
  local j = i
  while true do
    j = find(s, '"', j + 1, true)
    if not j then return nil end
    local k = j
    while byte(s, k - 1) == 92 do k = k - 1 end
    if (j - k) % 2 == 0 then return j + 1 end
  end
end

-- position after the value that starts at i, or nil
local function after_value(s, i)
  local c = byte(s, i)
  if c == 34 then return after_string(s, i) end
  if c ~= 123 and c ~= 91 then
    local _, e = find(s, "^[%w%.%+%-]+", i)
    return e and e + 1
  end
  local depth = 0
  while true do
    i = find(s, '["{}%[%]]', i)
    if not i then return nil end
    c = byte(s, i)
    if c == 34 then
      i = after_string(s, i)
      if not i then return nil end
    else
      depth = depth + ((c == 123 or c == 91) and 1 or -1)
      i = i + 1
      if depth == 0 then return i end
    end
  end
end

-- top-level members of a JSON object: values by name, and the names in order. A name that comes twice counts once,
-- with its last value, as parsers do: so nothing that is capped here can come back through a second copy.
local function members(s)
  local values, names = {}, {}
  local _, i = find(s, "^%s*{%s*")
  if not i then return nil end
  i = i + 1
  if byte(s, i) == 125 then return values, names end
  while true do
    if byte(s, i) ~= 34 then return nil end
    local name_end = after_string(s, i)
    if not name_end then return nil end
    local name = sub(s, i + 1, name_end - 2)
    if find(name, "\\", 1, true) then return nil end -- an escaped name could hide a capped field
    local _, colon = find(s, "^%s*:%s*", name_end)
    if not colon then return nil end
    local value_end = after_value(s, colon + 1)
    if not value_end then return nil end
    if values[name] == nil then names[#names + 1] = name end
    values[name] = sub(s, colon + 1, value_end - 1)
    local _, separator = find(s, "^%s*,%s*", value_end)
    if separator then
      i = separator + 1
    else
      if not find(s, "^%s*}%s*$", value_end) then return nil end
      return values, names
    end
  end
end

-- Where the values of `wanted` names begin and end, as two tables; nil where what was read is no JSON object. It reads
-- no further than it must: not past the last of `count` names, and not into its value if that name is `open`.
local function places(s, wanted, count, open)
  local starts, stops = {}, {}
  local _, i = find(s, "^%s*{%s*")
  if not i then return nil end
  i = i + 1
  if byte(s, i) == 125 then return starts, stops end
  while true do
    if byte(s, i) ~= 34 then return nil end
    local name_end = after_string(s, i)
    if not name_end then return nil end
    local name = sub(s, i + 1, name_end - 2)
    local _, colon = find(s, "^%s*:%s*", name_end)
    if not colon then return nil end
    if wanted[name] and not starts[name] then
      starts[name] = colon + 1
      count = count - 1
      if count == 0 and name == open then return starts, stops end
    end
    local value_end = after_value(s, colon + 1)
    if not value_end then return nil end
    if starts[name] == colon + 1 then
      stops[name] = value_end - 1
      if count == 0 then return starts, stops end
    end
    local _, separator = find(s, "^%s*,%s*", value_end)
    if separator then
      i = separator + 1
    else
      if not find(s, "^%s*}%s*$", value_end) then return nil end
      return starts, stops
    end
  end
end

-- the object, written again
local function object(values, names)
  local parts = {}
  for _, name in ipairs(names) do
    if values[name] ~= nil then parts[#parts + 1] = '"' .. name .. '":' .. values[name] end
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function refuse(h, status, message)
  local body = '{"error":{"message":"' .. message .. '","type":"invalid_request_error","param":null,"code":null}}'
  h:respond({ [":status"] = status, ["content-type"] = "application/json" }, body)
end
