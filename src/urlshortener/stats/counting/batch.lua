-- A batch: what it must look like, and what becomes of it.

local function fail()
    error('this is not a batch of accesses', 0)
end

local function is_text(value)
    return type(value) == 'string' and value ~= ''
end

-- Whatever is no number fails by itself.
local function is_whole(value, below)
    return value >= 0 and value < below and value % 1 == 0
end

-- block: [epoch, number, first place, last place, first place, last place, …]
local function check_block(block)
    if not is_text(block[1]) or not is_whole(block[2], LARGEST / BLOCK) or #block % 2 ~= 0 then
        fail()
    end
    for i = 3, #block, 2 do
        if not is_whole(block[i], BLOCK) or not is_whole(block[i + 1], BLOCK) or block[i] > block[i + 1] then
            fail()
        end
    end
end

-- tallies: [quarter, code, count, bots, last access in microseconds, visitors, code, …], each code once
local function check_tallies(tallies)
    if not is_whole(tallies[1], LARGEST) or #tallies % 5 ~= 1 then
        fail()
    end
    for i = 2, #tallies, 5 do
        local visitors = tallies[i + 4]
        if not is_text(tallies[i]) or not is_whole(tallies[i + 1], LARGEST) or not is_whole(tallies[i + 2], LARGEST)
            or not is_whole(tallies[i + 3], 2 ^ 52) or type(visitors) ~= 'string' or #visitors % VISITOR ~= 0 then
            fail()
        end
    end
end

local function check_texts(list)
    for i = 1, #list do
        if not is_text(list[i]) then
            fail()
        end
    end
end

local function check_advance(advance)
    if not is_text(advance[1]) or not is_text(advance[2]) or not is_whole(advance[3] + 1, LARGEST + 1)
        or not is_whole(advance[4], 2) or not is_whole(advance[5] + 1, LARGEST)
        or not is_whole(advance[6] + 1, LARGEST + 1) then
        fail()
    end
end

-- Nothing undoes what a function wrote before it failed: so every argument is looked at before the first write.
local function checked(packed)
    local blocks, foreign, requests, sections, advances, limits = unpack(cmsgpack.unpack(packed))
    for _, block in ipairs(blocks) do
        check_block(block)
    end
    check_texts(foreign)
    for _, group in ipairs(requests) do
        check_texts { group[1], group[2] }
        check_texts(group[3])
    end
    for _, tallies in ipairs(sections) do
        check_tallies(tallies)
    end
    for _, advance in ipairs(advances) do
        check_advance(advance)
    end
    for i = 1, 3 do
        if not is_whole(limits[i], LARGEST) then
            fail()
        end
    end
    return blocks, foreign, requests, sections, advances, limits
end

-- count(batch): the msgpack of [blocks of numbers, foreign ids, requests, tallies, advances, limits]
--   advances: [epoch, host, highest, last (0 or 1), hour, number] for each epoch that advanced
--   limits: [seconds that quarters are kept, seconds that requests are remembered, how many of them]
-- All or nothing: if any of it is known, nothing is counted, and the answer is [numbers, foreign ids, requests], those
-- that are known. Else the answer is [how many requests were not remembered]. So no tally is taken apart in here.
local function count(_, arguments)
    local is_readable, blocks, foreign, requests, sections, advances, limits = pcall(checked, arguments[1])
    if not is_readable then
        return redis.error_reply('ERR this is not a batch of accesses')
    end
    local known = { known_numbers(blocks), known_foreign(foreign), known_requests(requests) }
    if #known[1] + #known[2] + #known[3] > 0 then
        return known
    end
    local now = tonumber(redis.call('TIME')[1])
    remember_events(blocks, foreign)
    local unremembered = remember_requests(requests, now, limits[2], limits[3])
    for _, tallies in ipairs(sections) do
        count_tallies(tallies, math.floor(now / 86400), limits[1])
    end
    note_progress(advances, now)
    redis.call('INCR', 'us:beat')
    return { unremembered }
end
