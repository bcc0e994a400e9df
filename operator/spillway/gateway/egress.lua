-- Runs in front of one (provider, model). The constants are put in by lua.py:
-- MODEL (JSON string), MAX_TOKENS, MAX_CHOICES, DROP (set of field names).
-- It bounds what the request may cost, and lets nothing of the client's out but the request itself.

local ALLOWED = {
  ["content-type"] = true, ["accept"] = true, ["content-length"] = true, ["transfer-encoding"] = true,
}
local TOKEN_FIELDS = {
  ["/v1/chat/completions"] = { "max_tokens", "max_completion_tokens" },
  ["/v1/completions"] = { "max_tokens" },
  ["/v1/responses"] = { "max_output_tokens" },
}
local find, byte, sub = string.find, string.byte, string.sub

-- position after the string that opens at i, or nil
local function after_string(s, i)
  local j = i + 1
  while true do
    j = find(s, '["\\]', j)
    if not j then return nil end
    if byte(s, j) == 34 then return j + 1 end
    j = j + 2
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

-- more than one prompt in one request: each would cost up to the cap of one
local function is_batch(prompt)
  local _, i = find(prompt, '^%[%s*')
  if not i then return false end
  local c = byte(prompt, i + 1)
  if c ~= 34 and c ~= 91 then return false end
  local value_end = after_value(prompt, i + 1)
  return not value_end or find(prompt, "^%s*,", value_end) ~= nil
end

local function refuse(h, status, message)
  local body = '{"error":{"message":"' .. message .. '","type":"invalid_request_error","param":null,"code":null}}'
  h:respond({ [":status"] = status, ["content-type"] = "application/json" }, body)
end

local function cap(values, names, field, limit)
  local given = tonumber(values[field])
  if given and given >= 1 and given <= limit then return end
  if values[field] == nil then names[#names + 1] = field end
  values[field] = tostring(limit)
end

function envoy_on_request(h)
  if not h:metadata():get("permitted") then return end
  local headers = h:headers()
  local path = headers:get(":path"):match("^[^?]*")
  local encoding = headers:get("content-encoding")
  local out = {}
  for name, _ in pairs(headers) do
    if sub(name, 1, 1) ~= ":" and not ALLOWED[name] then out[#out + 1] = name end
  end
  for _, name in ipairs(out) do headers:remove(name) end
  headers:replace("user-agent", "spillway")
  headers:replace(":path", path)
  if encoding then return refuse(h, "415", "A compressed request body is not supported.") end

  local body = h:body()
  local values, names
  if body then values, names = members(body:getBytes(0, body:length())) end
  if not values then return refuse(h, "400", "The request body is not a JSON object with plain field names.") end
  if path == "/v1/completions" and values.prompt and is_batch(values.prompt) then
    h:respond({ [":status"] = "503", ["x-spillway-next"] = "not-permitted" }, "")
    return
  end

  values.model = MODEL
  if not find("\n" .. table.concat(names, "\n") .. "\n", "\nmodel\n", 1, true) then names[#names + 1] = "model" end
  local fields = TOKEN_FIELDS[path]
  if fields then
    local present = false
    for _, field in ipairs(fields) do
      if values[field] and values[field] ~= "null" then
        cap(values, names, field, MAX_TOKENS)
        present = true
      end
    end
    if not present then cap(values, names, fields[1], MAX_TOKENS) end
    for _, field in ipairs({ "n", "best_of" }) do
      if values[field] and values[field] ~= "null" then cap(values, names, field, MAX_CHOICES) end
    end
    if values.stream == "true" and path ~= "/v1/responses" then
      if values.stream_options == nil then names[#names + 1] = "stream_options" end
      values.stream_options = '{"include_usage":true}'
    end
  end
  local parts = {}
  for _, name in ipairs(names) do
    if not DROP[name] then parts[#parts + 1] = '"' .. name .. '":' .. values[name] end
  end
  body:setBytes("{" .. table.concat(parts, ",") .. "}")

  -- "unmetered" until usage is seen: an aborted request was not free
  local metadata = h:streamInfo():dynamicMetadata()
  metadata:set("spillway", "prompt", 0)
  metadata:set("spillway", "completion", 0)
  metadata:set("spillway", "cached", 0)
  metadata:set("spillway", "outcome", "unmetered")
end

function envoy_on_response(h)
  local headers = h:headers()
  local status = tonumber(headers:get(":status"))
  local metadata = h:streamInfo():dynamicMetadata()
  local mine = metadata:get("spillway")
  if not mine or not mine["outcome"] then return end -- this listener's own answer; no provider was asked
  local next = headers:get("x-spillway-next")
  if status >= 200 and status < 300 then
    local kind = headers:get("content-type") or ""
    if find(kind, "^application/json") then headers:replace("content-type", "application/json") end
    if find(kind, "^text/event%-stream") then headers:replace("content-type", "text/event-stream") end
    return
  end
  -- A provider that took the request and then broke off may bill what it computed.
  local broken = headers:get("x-spillway-unanswered")
  headers:remove("x-spillway-unanswered")
  metadata:set("spillway", "outcome", broken and "unanswered" or next == "capped" and "capped" or "refused")
  if next then return end
  if status < 400 or status >= 500 or status == 401 or status == 402 or status == 403 or status == 404
    or status == 408 or status == 409 or status == 429 then
    headers:replace("x-spillway-provider-status", tostring(status))
    headers:replace("x-spillway-next", "provider")
    headers:replace(":status", "503")
  end
end
