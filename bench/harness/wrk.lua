-- Sends the prepared requests of a file, round and round, and tells in one line of JSON what became of them.

local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   requests, sent = {}, 0
   local file = assert(io.open(args[1], "rb"))
   while true do
      local length = file:read("*number")
      if not length then break end
      file:read(1)
      requests[#requests + 1] = file:read(length)
   end
   file:close()
   count = #requests
end

function request()
   sent = sent + 1
   return requests[sent % count + 1]
end

function done(summary, latency, _)
   local all = 0
   for _, thread in ipairs(threads) do all = all + thread:get("sent") end
   local broken = summary.errors
   local errors = broken.connect + broken.read + broken.write + broken.status + broken.timeout
   io.write(string.format(
      'JSON {"requests":%d,"sent":%d,"duration_us":%d,"errors":%d,"p50_us":%d,"p99_us":%d}\n',
      summary.requests, all, summary.duration, errors, latency:percentile(50), latency:percentile(99)))
end
