-- What is shown.

-- top(offset, limit) -> [how many codes there are, code, its record, code, …]
local function top(_, arguments)
    local offset, limit = tonumber(arguments[1]), tonumber(arguments[2])
    local answer = { redis.call('ZCARD', 'us:top') }
    for _, code in ipairs(redis.call('ZRANGE', 'us:top', offset, offset + limit - 1)) do
        answer[#answer + 1] = code
        answer[#answer + 1] = redis.call('GET', 'us:r:' .. code)
    end
    return answer
end

-- quarters(code, first span, last span, seconds that quarters are kept)
-- -> [the latest quarter, which is in no hash, how often in it, span, its hash, span, its hash, …]
-- However long a stretch is asked for, only those spans are looked at that can be there.
local function quarters(_, arguments)
    local code = arguments[1]
    local packed = redis.call('GET', 'us:r:' .. code)
    if not packed then
        return {}
    end
    local record = cmsgpack.unpack(packed)
    local last_day = math.floor(record[QUARTER] / QUARTERS)
    local oldest_kept_day = math.floor((redis.call('TIME')[1] - arguments[4]) / 86400)
    local first_span = math.max(tonumber(arguments[2]), math.floor(oldest_kept_day / SPAN_DAYS))
    local last_span = math.min(tonumber(arguments[3]), math.floor(last_day / SPAN_DAYS))
    local answer = { record[QUARTER], math.floor(last_day / SPAN_DAYS) < first_span and 0 or record[IN_QUARTER] }
    for span = first_span, last_span do
        answer[#answer + 1] = span
        answer[#answer + 1] = redis.call('HGETALL', 'us:q:' .. code .. ':' .. span)
    end
    return answer
end
