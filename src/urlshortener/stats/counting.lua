#!lua name=shortener_counting_v2

-- How accesses are counted: one call for each batch, atomic on every node and in every prefix of the replication
-- stream. The version is part of the library's and of each function's name, so that old and new processes live side
-- by side: whoever changes what is written below raises it everywhere in this file. v2 only added us:x and us:progress
-- to what v1 wrote: both count on the same keys, and only v2 sees a retry, or what is missing.
--
-- All keys begin with `us:` and are made up in here, undeclared: the batch alone tells which they are. That is sound
-- where one server holds them all (a single Redis, or Sentinel's one keyspace); on Redis Cluster it would not be.
--
--   us:counts            sorted set   code -> minus its count: the most followed come first, and equal ones by code
--   us:c:<code>          string       msgpack of [last access in microseconds, bots, visitors of closed days,
--                                     open day, its visitors, open day, its visitors, …]
--   us:v:<code>:<day>    HyperLogLog  the visitors of an open day
--   us:q:<code>:<span>   hash         day of the span -> msgpack of {quarter of the day + 1 -> accesses}
--   us:e:<epoch>         hash         block -> full or partial: which blocks of numbers the epoch has used
--   us:b:<epoch>:<block> bitmap       which numbers of a partial block are counted
--   us:i:<event id>      string       a foreign event that was counted within a day
--   us:x:<slot>:<shard>  set          requests that were counted, by the time of their event: a dozen bytes each, made
--                                     of the request's id and the code
--   us:x:<period>        integer      how many were put there in this period of the server's clock, one window long
--   us:progress          hash         epoch -> msgpack of a Course (progress.py), one after another with its hours last
--   us:beat              integer      grows with every batch: one of nothing but duplicates must write as well, or
--                                     WAIT after it would have no offset to wait for
--
-- Most of the time of a small command called from here is the calling. So what can be asked or written for many codes
-- at once is, and small values that change together are one packed string.

local BLOCK = 65536 -- numbers in one bitmap
local EPOCH_KEPT_SECONDS = 14 * 86400
local EPOCH_TOUCHED_EVERY_SECONDS = 3600
local FOREIGN_ID_KEPT_SECONDS = 86400
local OPEN_DAYS = 8 -- events older than 7 days are never sent
local SKETCH_KEPT_SECONDS = 10 * 86400
local QUARTER_MICROSECONDS = 900 * 1000000
local DAY_MICROSECONDS = 96 * QUARTER_MICROSECONDS
local SPAN_DAYS = 32 -- a month that needs no calendar
local LARGEST = 2 ^ 48
local LATEST_MICROSECONDS = 2 ^ 52
local MARK_SECONDS = 60
local SLICE = 1000 -- Lua's stack bounds how many arguments one command may have
local REQUEST_SLOT_MICROSECONDS = 120 * 1000000
local REQUEST_NEAR_MICROSECONDS = 30 * 1000000 -- a proxy tries again at once: more lies between them by no clock
local REQUEST_SHARDS = 64 -- a set that is forgotten at once stays small
-- A row: number of the epoch (0: none), sequence or event id, code, microseconds, bot (0 or 1), visitor ("": none),
-- request ("": none)
local ROW = 7

local function is_text(value)
    return type(value) == 'string' and value ~= ''
end

local function is_whole(value, below)
    return type(value) == 'number' and value >= 0 and value < below and value == math.floor(value)
end

local function is_row(rows, i, epochs)
    local identified
    if rows[i] == 0 then
        identified = is_text(rows[i + 1])
    else
        identified = is_whole(rows[i], epochs + 1) and is_whole(rows[i + 1], LARGEST)
    end
    return identified and is_text(rows[i + 2]) and is_whole(rows[i + 3], LATEST_MICROSECONDS)
        and is_whole(rows[i + 4], 2) and type(rows[i + 5]) == 'string' and type(rows[i + 6]) == 'string'
end

local function is_advance(advance)
    return type(advance) == 'table' and is_text(advance[1]) and is_text(advance[2])
        and is_whole(advance[3] + 1, LARGEST) and is_whole(advance[4], 2)
        and is_whole(advance[5] + 1, LARGEST) and is_whole(advance[6] + 1, LARGEST)
end

-- Nothing undoes what a function wrote before it failed: so every argument is looked at before the first write.
local function is_batch(batch)
    if type(batch) ~= 'table' then
        return false
    end
    local epochs, rows = batch[1], batch[2]
    if type(epochs) ~= 'table' or type(rows) ~= 'table' or #rows % ROW ~= 0 then
        return false
    end
    for _, epoch in ipairs(epochs) do
        if not is_text(epoch) then
            return false
        end
    end
    for i = 1, #rows, ROW do
        if not is_row(rows, i, #epochs) then
            return false
        end
    end
    for _, advance in ipairs(type(batch[6]) == 'table' and batch[6] or { false }) do
        if not is_advance(advance) then
            return false
        end
    end
    return is_whole(batch[3], LARGEST) and is_whole(batch[4], LARGEST) and is_whole(batch[5], LARGEST)
end

local function in_slices(list, size, use)
    for i = 1, #list, size do
        use(i, unpack(list, i, math.min(i + size - 1, #list)))
    end
end

-- epoch -> block -> the rows that have a number in it, and the commands that set their bits
local function blocks_of(epochs, rows)
    local blocks = {}
    for i = 1, #rows, ROW do
        local epoch = epochs[rows[i]]
        if epoch then
            local number = math.floor(rows[i + 1] / BLOCK)
            local of_epoch = blocks[epoch] or {}
            local block = of_epoch[number] or { rows = {}, bits = {} }
            local bits = block.bits
            block.rows[#block.rows + 1] = i
            bits[#bits + 1], bits[#bits + 2], bits[#bits + 3], bits[#bits + 4] = 'SET', 'u1', rows[i + 1] % BLOCK, 1
            of_epoch[number] = block
            blocks[epoch] = of_epoch
        end
    end
    return blocks
end

-- Set the bits of a block and collect the rows whose bits were not set before. A full block is given up for a word.
local function take_numbers(epoch, number, block, new)
    local state = redis.call('HGET', 'us:e:' .. epoch, number)
    if state == 'full' then
        return false
    end
    local key = 'us:b:' .. epoch .. ':' .. number
    in_slices(block.bits, 4 * SLICE, function(first, ...)
        for j, was_set in ipairs(redis.call('BITFIELD', key, ...)) do
            if was_set == 0 then
                new[#new + 1] = block.rows[(first - 1) / 4 + j]
            end
        end
    end)
    if redis.call('BITCOUNT', key) == BLOCK then
        redis.call('HSET', 'us:e:' .. epoch, number, 'full')
        redis.call('DEL', key)
    elseif not state then
        redis.call('HSET', 'us:e:' .. epoch, number, 'partial')
    end
    return not state
end

-- An epoch is forgotten as a whole, so all its blocks are touched together; an hour's slack makes that rare.
local function keep_epoch(epoch, has_new_block)
    local key, kept_seconds = 'us:e:' .. epoch, EPOCH_KEPT_SECONDS + EPOCH_TOUCHED_EVERY_SECONDS
    if not has_new_block and redis.call('TTL', key) >= EPOCH_KEPT_SECONDS then
        return
    end
    redis.call('EXPIRE', key, kept_seconds)
    local blocks = redis.call('HGETALL', key)
    for i = 1, #blocks, 2 do
        if blocks[i + 1] == 'partial' then
            redis.call('EXPIRE', 'us:b:' .. epoch .. ':' .. blocks[i], kept_seconds)
        end
    end
end

-- The rows that are counted for the first time.
local function new_rows(epochs, rows)
    local new = {}
    for epoch, of_epoch in pairs(blocks_of(epochs, rows)) do
        local has_new_block = false
        for number, block in pairs(of_epoch) do
            has_new_block = take_numbers(epoch, number, block, new) or has_new_block
        end
        keep_epoch(epoch, has_new_block)
    end
    for i = 1, #rows, ROW do
        if rows[i] == 0 and redis.call('SET', 'us:i:' .. rows[i + 1], '', 'NX', 'EX', FOREIGN_ID_KEPT_SECONDS) then
            new[#new + 1] = i
        end
    end
    return new
end

local function request_key(slot, request)
    return 'us:x:' .. slot .. ':' .. string.byte(request, -1) % REQUEST_SHARDS
end

local function listed(lists, key, value)
    local list = lists[key]
    if list then
        list[#list + 1] = value
    else
        lists[key] = { value }
    end
end

-- Which of the rows' requests were counted before. By the time of the event, because a try and its retry are never far
-- apart on the clock, however late one of them gets here.
local function known_requests(rows, new)
    local asked, known = {}, {}
    for _, i in ipairs(new) do
        local at, request = rows[i + 3], rows[i + 6]
        if request ~= '' then
            local slot, into = math.floor(at / REQUEST_SLOT_MICROSECONDS), at % REQUEST_SLOT_MICROSECONDS
            listed(asked, request_key(slot, request), request)
            if into < REQUEST_NEAR_MICROSECONDS then
                listed(asked, request_key(slot - 1, request), request)
            elseif into >= REQUEST_SLOT_MICROSECONDS - REQUEST_NEAR_MICROSECONDS then
                listed(asked, request_key(slot + 1, request), request)
            end
        end
    end
    for key, requests in pairs(asked) do
        in_slices(requests, SLICE, function(first, ...)
            for j, is_known in ipairs(redis.call('SMISMEMBER', key, ...)) do
                if is_known == 1 then
                    known[requests[first + j - 1]] = true
                end
            end
        end)
    end
    return known
end

-- Remember requests for the window, as many as there is room for; returns for how many there was none.
local function remember_requests(by_key, how_many, now, window_seconds, most)
    if how_many == 0 then
        return 0
    end
    local period = 'us:x:' .. math.floor(now / window_seconds)
    if redis.call('INCRBY', period, how_many) > most then
        redis.call('DECRBY', period, how_many)
        return how_many
    end
    redis.call('EXPIRE', period, window_seconds)
    for key, requests in pairs(by_key) do
        in_slices(requests, SLICE, function(_, ...)
            redis.call('SADD', key, ...)
        end)
        redis.call('EXPIRE', key, window_seconds)
    end
    return 0
end

-- The rows that are no second try of a proxy, and for how many of them there was no room to be remembered.
local function first_tries(rows, new, now, window_seconds, most)
    local known = known_requests(rows, new)
    local first, by_key, how_many = {}, {}, 0
    for _, i in ipairs(new) do
        local request = rows[i + 6]
        if request == '' then
            first[#first + 1] = i
        elseif not known[request] then
            first[#first + 1] = i
            known[request] = true
            how_many = how_many + 1
            listed(by_key, request_key(math.floor(rows[i + 3] / REQUEST_SLOT_MICROSECONDS), request), request)
        end
    end
    return first, remember_requests(by_key, how_many, now, window_seconds, most)
end

-- What a batch adds to each code: written at once, whether it is one access or hundreds.
local function tallies_of(rows, new)
    local codes, tallies = {}, {}
    for _, i in ipairs(new) do
        local code, at, visitor = rows[i + 2], rows[i + 3], rows[i + 5]
        local tally = tallies[code]
        if not tally then
            tally = { count = 0, bots = 0, last = 0, days = {}, visitors = {} }
            tallies[code] = tally
            codes[#codes + 1] = code
        end
        local quarter = math.floor(at / QUARTER_MICROSECONDS)
        local day, of_day = math.floor(quarter / 96), quarter % 96 + 1
        local quarters = tally.days[day]
        if quarters then
            quarters[of_day] = (quarters[of_day] or 0) + 1
        else
            tally.days[day] = { [of_day] = 1 }
        end
        tally.count = tally.count + 1
        tally.bots = tally.bots + rows[i + 4]
        tally.last = math.max(tally.last, at)
        if visitor ~= '' then
            local seen = tally.visitors[day]
            if seen then
                seen[#seen + 1] = visitor
            else
                tally.visitors[day] = { visitor }
            end
        end
    end
    return codes, tallies
end

local function write_counts(codes, tallies)
    in_slices(codes, SLICE, function(first, ...)
        local added = {}
        for j, score in ipairs(redis.call('ZMSCORE', 'us:counts', ...)) do
            local code = codes[first + j - 1]
            added[2 * j - 1] = (score or 0) - tallies[code].count
            added[2 * j] = code
        end
        redis.call('ZADD', 'us:counts', unpack(added))
    end)
end

local function write_quarters(code, days, retention_seconds)
    for day, added in pairs(days) do
        local span = math.floor(day / SPAN_DAYS)
        local key = 'us:q:' .. code .. ':' .. span
        local packed = redis.call('HGET', key, day % SPAN_DAYS)
        if packed then
            for quarter, count in pairs(cmsgpack.unpack(packed)) do
                added[quarter] = (added[quarter] or 0) + count
            end
        end
        redis.call('HSET', key, day % SPAN_DAYS, cmsgpack.pack(added))
        if not packed then -- a new field is rare enough to say again when the span may go
            redis.call('EXPIREAT', key, (span + 1) * SPAN_DAYS * 86400 + retention_seconds)
        end
    end
end

-- How many visitors the day has now; nil if there is nobody new.
local function visitors_now(code, day, seen)
    local key = 'us:v:' .. code .. ':' .. day
    local changed = 0
    for i = 1, #seen, SLICE do
        changed = changed + redis.call('PFADD', key, unpack(seen, i, math.min(i + SLICE - 1, #seen)))
    end
    if changed == 0 then
        return nil
    end
    local visitors = redis.call('PFCOUNT', key)
    if visitors <= #seen then -- perhaps all of them came just now, and the sketch is new
        redis.call('EXPIRE', key, SKETCH_KEPT_SECONDS)
    end
    return visitors
end

-- Days that no event can reach any more become one number. The server's clock keeps a shortener whose own is ahead
-- from closing days that are not over.
local function first_open_day(last, today)
    return math.min(math.floor(last / DAY_MICROSECONDS), today + 1) - OPEN_DAYS
end

-- Put the day's visitors into the record; a day that is new to it closes those that are over.
local function with_day(record, day, visitors, first_open)
    for i = 4, #record, 2 do
        if record[i] == day then
            record[i + 1] = math.max(record[i + 1], visitors)
            return record
        end
    end
    local kept = { record[1], record[2], record[3], day, visitors }
    for i = 4, #record, 2 do
        if record[i] < first_open then
            kept[3] = kept[3] + record[i + 1]
        else
            kept[#kept + 1], kept[#kept + 2] = record[i], record[i + 1]
        end
    end
    return kept
end

local function with_tally(record, code, tally, today)
    record[1] = math.max(record[1], tally.last)
    record[2] = record[2] + tally.bots
    local first_open = first_open_day(record[1], today)
    for day, seen in pairs(tally.visitors) do
        local visitors = day >= first_open and visitors_now(code, day, seen)
        if visitors then
            record = with_day(record, day, visitors, first_open)
        end
    end
    return record
end

local function write_records(codes, tallies, today)
    local keys = {}
    for j, code in ipairs(codes) do
        keys[j] = 'us:c:' .. code
    end
    in_slices(keys, SLICE, function(first, ...)
        local written = {}
        for j, packed in ipairs(redis.call('MGET', ...)) do
            local code = codes[first + j - 1]
            local record = packed and cmsgpack.unpack(packed) or { 0, 0, 0 }
            written[2 * j - 1] = keys[first + j - 1]
            written[2 * j] = cmsgpack.pack(with_tally(record, code, tallies[code], today))
        end
        redis.call('MSET', unpack(written))
    end)
end

-- Bring a course forward by what a batch tells of the epoch; Course.after in progress.py says the same.
local function after(course, advance, now)
    course[1] = advance[2]
    if advance[3] > course[2] then
        course[2], course[4] = advance[3], now
    end
    course[3] = math.max(course[3], advance[4])
    if now - course[6] >= MARK_SECONDS then
        course[5], course[6], course[7], course[8] = course[2], now, course[5], course[6]
    end
    if advance[5] < 0 then
        return course
    end
    for i = 10, #course, 2 do
        if course[i] == advance[5] then
            course[i + 1] = math.max(course[i + 1], advance[6])
            return course
        end
    end
    course[#course + 1], course[#course + 2] = advance[5], advance[6]
    return course
end

local function note_progress(advances, now)
    for _, advance in ipairs(advances) do
        local packed = redis.call('HGET', 'us:progress', advance[1])
        local course = packed and cmsgpack.unpack(packed) or { '', -1, 0, 0, -1, 0, -1, 0, 0 }
        redis.call('HSET', 'us:progress', advance[1], cmsgpack.pack(after(course, advance, now)))
    end
end

-- count(batch): the msgpack of [epochs, rows, seconds that quarters are kept, seconds that requests are remembered,
-- how many of them, [epoch, host, highest, last (0 or 1), hour, number] for each that advanced] -> [counted now, counted before, second tries of a proxy, requests that were not remembered]
-- A number's bit is set first: so a retry that is delivered again is a duplicate like any other.
local function count(_, arguments)
    local readable, batch = pcall(cmsgpack.unpack, arguments[1])
    if not readable or not is_batch(batch) then
        return redis.error_reply('ERR this is not a batch of accesses')
    end
    local epochs, rows, retention_seconds = batch[1], batch[2], batch[3]
    local now = tonumber(redis.call('TIME')[1])
    local new = new_rows(epochs, rows)
    local first, unremembered = first_tries(rows, new, now, batch[4], batch[5])
    local codes, tallies = tallies_of(rows, first)
    write_counts(codes, tallies)
    write_records(codes, tallies, math.floor(now / 86400))
    for _, code in ipairs(codes) do
        write_quarters(code, tallies[code].days, retention_seconds)
    end
    note_progress(batch[6], now)
    redis.call('INCR', 'us:beat')
    return { #first, #rows / ROW - #new, #new - #first, unremembered }
end

-- top(offset, limit) -> [how many codes there are, code, minus its count, its record, code, …]
local function top(_, arguments)
    local offset, limit = tonumber(arguments[1]), tonumber(arguments[2])
    local page = redis.call('ZRANGE', 'us:counts', offset, offset + limit - 1, 'WITHSCORES')
    local answer = { redis.call('ZCARD', 'us:counts') }
    for i = 1, #page, 2 do
        answer[#answer + 1] = page[i]
        answer[#answer + 1] = page[i + 1]
        answer[#answer + 1] = redis.call('GET', 'us:c:' .. page[i])
    end
    return answer
end

-- quarters(code, first span, last span, seconds that quarters are kept) -> [span, its hash, span, its hash, …]
-- However long a stretch is asked for, only those spans are looked at that can be there.
local function quarters(_, arguments)
    local code = arguments[1]
    local record = redis.call('GET', 'us:c:' .. code)
    if not record then
        return {}
    end
    local last_day = math.floor(cmsgpack.unpack(record)[1] / DAY_MICROSECONDS)
    local oldest_kept_day = math.floor((redis.call('TIME')[1] - arguments[4]) / 86400)
    local first_span = math.max(tonumber(arguments[2]), math.floor(oldest_kept_day / SPAN_DAYS))
    local last_span = math.min(tonumber(arguments[3]), math.floor(last_day / SPAN_DAYS))
    local answer = {}
    for span = first_span, last_span do
        answer[#answer + 1] = span
        answer[#answer + 1] = redis.call('HGETALL', 'us:q:' .. code .. ':' .. span)
    end
    return answer
end

-- The blocks of an epoch from first to last that have numbers: number, state, number, state, …
local function blocks_between(epoch, first, last)
    if last - first >= SLICE then
        return redis.call('HGETALL', 'us:e:' .. epoch)
    end
    local numbers, blocks = {}, {}
    for number = first, last do
        numbers[#numbers + 1] = number
    end
    for j, state in ipairs(redis.call('HMGET', 'us:e:' .. epoch, unpack(numbers))) do
        blocks[#blocks + 1], blocks[#blocks + 2] = numbers[j], state
    end
    return blocks
end

local function counted_between(epoch, first, last)
    local blocks, how_many = blocks_between(epoch, math.floor(first / BLOCK), math.floor(last / BLOCK)), 0
    for i = 1, #blocks, 2 do
        local began = blocks[i] * BLOCK
        local from, upto = math.max(first - began, 0), math.min(last - began, BLOCK - 1)
        if blocks[i + 1] and from <= upto then
            how_many = how_many + (blocks[i + 1] == 'full' and upto - from + 1
                or redis.call('BITCOUNT', 'us:b:' .. epoch .. ':' .. blocks[i], from, upto, 'BIT'))
        end
    end
    return how_many
end

-- counted(epoch, first, last, epoch, first, last, …) -> how many of each stretch's numbers are counted
local function counted(_, arguments)
    local answer = {}
    for i = 1, #arguments, 3 do
        answer[#answer + 1] = counted_between(arguments[i], tonumber(arguments[i + 1]), tonumber(arguments[i + 2]))
    end
    return answer
end

-- done(epoch, number): all below is counted. An epoch that is over with that is forgotten; Course.done says the same.
local function done(_, arguments)
    local epoch, below = arguments[1], tonumber(arguments[2])
    local packed = redis.call('HGET', 'us:progress', epoch)
    local course = packed and cmsgpack.unpack(packed)
    if not course or (course[3] == 1 and below > course[2]) then
        return redis.call('HDEL', 'us:progress', epoch)
    end
    local kept = { unpack(course, 1, 9) }
    kept[9] = math.max(course[9], below)
    for i = 10, #course, 2 do
        if course[i + 1] >= below or i == #course - 1 then
            kept[#kept + 1], kept[#kept + 2] = course[i], course[i + 1]
        end
    end
    return redis.call('HSET', 'us:progress', epoch, cmsgpack.pack(kept))
end

redis.register_function('shortener_count_v2', count)
redis.register_function('shortener_done_v2', done)
redis.register_function { function_name = 'shortener_counted_v2', callback = counted, flags = { 'no-writes' } }
redis.register_function { function_name = 'shortener_top_v2', callback = top, flags = { 'no-writes' } }
redis.register_function { function_name = 'shortener_quarters_v2', callback = quarters, flags = { 'no-writes' } }
