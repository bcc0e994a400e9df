-- The main listener. Of a request it reads what routing needs and only the body tells: the model, and how the
-- conversation begins. What it needs to know stands in the route's metadata. The constants are put in by lua.py.

-- the text of a JSON string without escapes but "\/", or nil
local function text(value)
  if not value or byte(value, 1) ~= 34 then return nil end
  local inner = sub(value, 2, -2):gsub("\\/", "/")
  if inner == "" or find(inner, "[%c\\]") then return nil end
  return inner
end

-- a conversation up to the end of its first user message: what stays as it is while the conversation grows
local function opening(list)
  local _, i = find(list, "^%[%s*")
  if not i then return sub(list, 1, LONGEST_OPENING) end
  while true do
    local message_end = after_value(list, i + 1)
    if not message_end or message_end > LONGEST_OPENING then return sub(list, 1, LONGEST_OPENING) end
    local role = find(sub(list, i + 1, message_end - 1), '"role"%s*:%s*"user"')
    if role then return sub(list, 1, message_end - 1) end
    _, i = find(list, "^%s*,%s*", message_end)
    if not i then return sub(list, 1, message_end - 1) end
  end
end

-- what requests have in common whose caches can serve each other, as a number; nil: nothing to go by
local function beginning(path, values)
  local start
  if path == "/v1/chat/completions" then
    start = values.messages and opening(values.messages)
  elseif path == "/v1/responses" then
    start = values.input and (values.instructions or "") .. opening(values.input)
  elseif path == "/v1/completions" then
    start = values.prompt and sub(values.prompt, 1, PROMPT_OPENING)
  end
  if not start then return nil end
  local hash = 7
  for i = 1, #start do hash = (hash * 131 + byte(start, i)) % 4294967291 end -- below 2^40: exact
  return string.format("%.0f", hash)
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
  local values, names, body
  if not headers:get("content-encoding") then
    body = h:body()
    if body then values, names = members(body:getBytes(0, body:length())) end
  end
  if not values then -- who answers says what is wrong with it
    if shared then refuse(h, "400", "The request body is not a plain JSON object: its model cannot be read.") end
    return
  end

  headers = h:headers()
  local model = text(values.model)
  if shared then
    local namespace, deployment = (model or ""):match("^([a-z0-9%-]+)/([a-z0-9%-]+)$")
    if namespace then headers:replace(":authority", deployment .. "." .. namespace) end
    return
  end
  if name and model == id then
    values.model = name
    body:setBytes(object(values, names))
  end
  if affinity then
    local hash = beginning(headers:get(":path"):match("^[^?]*"), values)
    if hash then headers:replace("x-spillway-prefix", hash) end
  end
  if model and reads_model then
    headers:replace("x-spillway-model", model)
    h:clearRouteCache()
  end
end

-- The last member of the chain could not serve: say why in OpenAI's words. The texts stand in the route's metadata.
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
  headers:replace("retry-after", answer["retry_after"])
  headers:replace("x-spillway-served-by", "none")
  headers:replace("x-spillway-reason", answer["code"])
  h:body(true):setBytes(answer["body"])
end
