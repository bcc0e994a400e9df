-- The main listener. Of a request it reads what routing needs and only the body tells: the model, and how the
-- conversation begins. What it needs to know stands in the route's metadata. The constants are put in by lua.py.

-- What each path's conversations begin with: a field before it, and the one in which it grows.
local GROWS = {
  ["/v1/chat/completions"] = { "messages" },
  ["/v1/completions"] = { "prompt" },
  ["/v1/responses"] = { "input", "instructions" },
}

-- the text of a JSON string without escapes but "\/", or nil
local function text(value)
  if byte(value, 1) ~= 34 then return nil end
  local inner = sub(value, 2, -2):gsub("\\/", "/")
  if inner == "" or find(inner, "[%c\\]") then return nil end
  return inner
end

-- of the value at i what stays as it is while the conversation grows: a list up to the end of its first user message,
-- else the value; no more than `longest` of it
local function opening(s, i, longest)
  local list = sub(s, i, i + longest - 1)
  local _, at = find(list, "^%[%s*")
  if not at then return sub(list, 1, (after_value(list, 1) or longest + 1) - 1) end
  local user = find(list, '"role"%s*:%s*"user"')
  while true do
    local message_end = after_value(list, at + 1)
    if not message_end then return list end
    if user and user < message_end then return sub(list, 1, message_end - 1) end
    _, at = find(list, "^%s*,%s*", message_end)
    if not at then return sub(list, 1, message_end - 1) end
  end
end

local function hash(start)
  local sum = 7
  for i = 1, #start do sum = (sum * 131 + byte(start, i)) % 4294967291 end -- below 2^40: exact
  return string.format("%.0f", sum)
end

function envoy_on_request(h)
  local headers = h:headers()
  headers:remove("x-spillway-prefix")
  if headers:get("x-spillway-model") then
    headers:remove("x-spillway-model")
    h:clearRouteCache()
  end
  -- Both are void once the body was waited for.
  local wants = h:metadata()
  local shared, affinity, reads_model = wants:get("by_model"), wants:get("affinity"), wants:get("reads_model")
  local id, name = wants:get("id"), headers:get("x-spillway-addressed") and wants:get("served_name")
  if not (shared or name or reads_model or affinity) then return end
  local grows = affinity and GROWS[headers:get(":path"):match("^[^?]*")]
  local wanted, count = {}, 0
  if shared or name or reads_model then wanted.model, count = true, 1 end
  for _, field in ipairs(grows or {}) do wanted[field], count = true, count + 1 end
  if count == 0 then return end
  local bytes, starts, stops, body
  if not headers:get("content-encoding") then
    body = h:body()
    if body then
      bytes = body:getBytes(0, body:length())
      starts, stops = places(bytes, wanted, count, grows and grows[1])
    end
  end
  if not starts then -- who answers says what is wrong with it
    if shared then refuse(h, "400", "The request body is not a JSON object: its model cannot be read.") end
    return
  end

  headers = h:headers()
  local model = starts.model and text(sub(bytes, starts.model, stops.model))
  if shared then
    local namespace, deployment = (model or ""):match("^([a-z0-9%-]+)/([a-z0-9%-]+)$")
    if namespace then headers:replace(":authority", deployment .. "." .. namespace) end
    return
  end
  if grows and starts[grows[1]] then
    local before = grows[2] and starts[grows[2]] and opening(bytes, starts[grows[2]], LONGEST_OPENING) or ""
    local longest = grows[1] == "prompt" and PROMPT_OPENING or LONGEST_OPENING
    headers:replace("x-spillway-prefix", hash(before .. opening(bytes, starts[grows[1]], longest)))
  end
  if name and model and model == id then
    body:setBytes(sub(bytes, 1, starts.model - 1) .. name .. sub(bytes, stops.model + 1))
  end
  if model and reads_model then
    headers:replace("x-spillway-model", model)
    h:clearRouteCache()
  end
end

function envoy_on_response(h)
  local headers = h:headers()
  local next = headers:get("x-spillway-next")
  if not next then
    if not headers:get("x-spillway-served-by") then headers:replace("x-spillway-served-by", "none") end
    return
  end
  local answers = h:metadata()
  local answer = answers:get(next) or answers:get("provider")
  headers:remove("x-spillway-next")
  headers:remove("x-spillway-provider-status")
  headers:remove("content-encoding")
  headers:replace(":status", answer["status"])
  headers:replace("content-type", "application/json")
  -- Of several providers only the last one's wait is known, and another may be free sooner.
  local asked = answer["sole"] and tonumber(headers:get("retry-after") or "")
  headers:replace("retry-after", asked and asked > 0 and tostring(asked) or answer["retry_after"])
  headers:replace("x-spillway-served-by", "none")
  headers:replace("x-spillway-reason", answer["code"])
  h:body(true):setBytes(answer["body"])
end
