-- What wrk asks for. Arguments: one|many|misses|close, the token, the number of keys (of `many`).
-- Tells the outcome as one line of JSON after "outcome ".

local target = "/api/v1/calcom/integration/unit/unit-"

function init(arguments)
  local kind, token, keys = arguments[1], arguments[2], tonumber(arguments[3])
  wrk.headers["Authorization"] = "Bearer " .. token
  wrk.path = target .. "1"
  local before, after = wrk.format("GET", target .. "#"):match("^(.-)#(.*)$")
  if kind == "many" then
    local requests, at = {}, 0
    for unit = 1, math.min(keys, 10000) do requests[unit] = before .. unit .. after end
    function request()
      at = at % keys + 1
      return requests[at] or before .. at .. after
    end
  elseif kind == "close" then
    wrk.headers["Connection"] = "close"
  elseif kind == "misses" then
    local unit = 0
    function request()
      unit = unit + 1
      return before .. unit .. after
    end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'outcome {"requests": %d, "bytes": %d, "microseconds": %d, "failed": %d, "refused": %d, "p50": %d, "p99": %d}\n',
    summary.requests, summary.bytes, summary.duration,
    errors.connect + errors.read + errors.write + errors.timeout, errors.status,
    latency:percentile(50), latency:percentile(99)))
end
