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

-- more than one prompt in one request: each would cost up to the cap of one
local function is_batch(prompt)
  local _, i = find(prompt, '^%[%s*')
  if not i then return false end
  local c = byte(prompt, i + 1)
  if c ~= 34 and c ~= 91 then return false end
  local value_end = after_value(prompt, i + 1)
  return not value_end or find(prompt, "^%s*,", value_end) ~= nil
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
  for name in pairs(DROP) do values[name] = nil end
  body:setBytes(object(values, names))

  -- "unmetered" until usage is seen: an aborted request was not free. Usage that leaves out the completion of a path
  -- that has one is none: below zero, nothing is counted.
  local metadata = h:streamInfo():dynamicMetadata()
  metadata:set("spillway", "prompt", 0)
  metadata:set("spillway", "completion", fields and -1 or 0)
  metadata:set("spillway", "cached", 0)
  metadata:set("spillway", "cache_write", 0)
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
