-- What a batch adds to each code: how often it was followed, when, and by whom.

local function add_to_quarters(code, quarter, count, retention_seconds)
    local day, of_day = math.floor(quarter / QUARTERS), quarter % QUARTERS + 1
    local span = math.floor(day / SPAN_DAYS)
    local key = 'us:q:' .. code .. ':' .. span
    local packed = redis.call('HGET', key, day % SPAN_DAYS)
    local counts = packed and cmsgpack.unpack(packed) or {}
    counts[of_day] = (counts[of_day] or 0) + count
    redis.call('HSET', key, day % SPAN_DAYS, cmsgpack.pack(counts))
    if not packed then -- a new field is rare enough to say again when the span may go
        redis.call('EXPIREAT', key, (span + 1) * SPAN_DAYS * 86400 + retention_seconds)
    end
end

-- The latest quarter is counted in the record, and written down when there is a later one.
local function count_quarter(record, code, quarter, count, retention_seconds)
    if quarter == record[QUARTER] then
        record[IN_QUARTER] = record[IN_QUARTER] + count
    elseif quarter < record[QUARTER] then
        add_to_quarters(code, quarter, count, retention_seconds)
    else
        if record[IN_QUARTER] > 0 then
            add_to_quarters(code, record[QUARTER], record[IN_QUARTER], retention_seconds)
        end
        record[QUARTER], record[IN_QUARTER] = quarter, count
    end
end

-- ---- by whom

-- Put visitors into the sketch of a day; returns how many it has now, 0 if there was nobody new.
local function sketched(code, day, visitors, may_be_new)
    local key, members = 'us:v:' .. code .. ':' .. day, {}
    for i = 1, #visitors, VISITOR do
        members[#members + 1] = visitors:sub(i, i + VISITOR - 1)
    end
    local changed, is_new = 0, may_be_new and redis.call('EXISTS', key) == 0
    in_slices(members, SLICE, function(_, ...)
        changed = changed + redis.call('PFADD', key, ...)
    end)
    if is_new then
        redis.call('EXPIRE', key, SKETCH_KEPT_SECONDS)
    end
    return changed > 0 and redis.call('PFCOUNT', key) or 0
end

local function meet(record, code, visitors)
    local met = record[MET]
    if met == '' and record[VISITORS] > 0 then
        record[VISITORS] = math.max(record[VISITORS], sketched(code, record[DAY], visitors, false))
        return
    end
    for i = 1, #visitors, VISITOR do
        local visitor = visitors:sub(i, i + VISITOR - 1)
        if not met:find(visitor, 1, true) then
            met = met .. visitor
        end
    end
    record[MET], record[VISITORS] = met, #met / VISITOR
    if #met > MOST_MET then
        record[MET], record[VISITORS] = '', sketched(code, record[DAY], met, true)
    end
end

-- Days that no event can reach any more become one number. The server's clock keeps a shortener whose own is ahead
-- from closing days that are not over.
local function first_open_day(record, today)
    return math.min(math.floor(record[LAST] / (QUARTERS * QUARTER_MICROSECONDS)), today + 1) - OPEN_DAYS
end

local function begin_day(record, code, day, first_open)
    if record[MET] ~= '' then
        sketched(code, record[DAY], record[MET], true)
    end
    local days = { record[DAY], record[VISITORS], unpack(record, EARLIER) }
    for i = EARLIER, #record do
        record[i] = nil
    end
    for i = 1, #days, 2 do
        if days[i] < first_open then
            record[CLOSED] = record[CLOSED] + days[i + 1]
        else
            record[#record + 1], record[#record + 2] = days[i], days[i + 1]
        end
    end
    record[DAY], record[VISITORS], record[MET] = day, 0, ''
end

local function meet_late(record, code, day, visitors)
    local now = sketched(code, day, visitors, true)
    for i = EARLIER, #record, 2 do
        if record[i] == day then
            record[i + 1] = math.max(record[i + 1], now)
            return
        end
    end
    record[#record + 1], record[#record + 2] = day, now
end

local function count_visitors(record, code, day, visitors, today)
    local first_open = first_open_day(record, today)
    if day < first_open then
        return
    elseif day < record[DAY] then
        meet_late(record, code, day, visitors)
        return
    elseif day > record[DAY] then
        begin_day(record, code, day, first_open)
    end
    meet(record, code, visitors)
end

local function count_tallies(tallies, today, retention_seconds)
    local quarter = tallies[1]
    local day = math.floor(quarter / QUARTERS)
    local keys = {}
    for i = 2, #tallies, 5 do
        keys[#keys + 1] = 'us:r:' .. tallies[i]
    end
    in_slices(keys, SLICE, function(first, ...)
        local records, scores = {}, {}
        for j, packed in ipairs(redis.call('MGET', ...)) do
            local record = packed and cmsgpack.unpack(packed) or { 0, 0, 0, 0, 0, 0, 0, 0, '' }
            local i = 2 + 5 * (first + j - 2)
            local code, count, last, visitors = tallies[i], tallies[i + 1], tallies[i + 3], tallies[i + 4]
            record[COUNT] = record[COUNT] + count
            record[BOTS] = record[BOTS] + tallies[i + 2]
            if last > record[LAST] then
                record[LAST] = last
            end
            count_quarter(record, code, quarter, count, retention_seconds)
            if visitors ~= '' then
                count_visitors(record, code, day, visitors, today)
            end
            records[2 * j - 1], records[2 * j] = keys[first + j - 1], cmsgpack.pack(record)
            scores[2 * j - 1], scores[2 * j] = -record[COUNT], code
        end
        redis.call('MSET', unpack(records))
        redis.call('ZADD', 'us:top', unpack(scores))
    end)
end

-- sweep(how many): look at so many more codes, and forget who came on days that are over. Codes that are still followed
-- do that themselves; of the others nobody shall be found by a list of the last visitors, either.
local function sweep(_, arguments)
    local first_open = math.floor(redis.call('TIME')[1] / 86400) - OPEN_DAYS
    local swept = redis.call('GET', 'us:swept') or 0
    local cursor, found = unpack(redis.call('ZSCAN', 'us:top', swept, 'COUNT', arguments[1]))
    redis.call('SET', 'us:swept', cursor)
    for i = 1, #found, 2 do
        local record = cmsgpack.unpack(redis.call('GET', 'us:r:' .. found[i]))
        if record[MET] ~= '' and record[DAY] < first_open then
            record[MET] = ''
            redis.call('SET', 'us:r:' .. found[i], cmsgpack.pack(record))
        end
    end
end
