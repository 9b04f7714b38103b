-- How far epochs have come, and which of their numbers are counted.

-- Bring a course forward by what a batch tells of the epoch; Course.after in stats/progress.py says the same.
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
