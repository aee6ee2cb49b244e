-- How wrk asks for the target that it was given. Arguments: keep|close (the connections), the token.
-- Tells the outcome as one line of JSON after "outcome ".

function init(arguments)
  local kind, token = arguments[1], arguments[2]
  wrk.headers["Authorization"] = "Bearer " .. token
  if kind == "close" then
    wrk.headers["Connection"] = "close"
  end
end

function done(summary)
  local errors = summary.errors
  io.write(string.format(
    'outcome {"requests": %d, "bytes": %d, "microseconds": %d, "failed": %d, "refused": %d}\n',
    summary.requests, summary.bytes, summary.duration,
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
