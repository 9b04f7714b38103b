-- Once each: which events were counted, and which requests of visitors.

local function bitmap_of(block)
    return 'us:b:' .. block[1] .. ':' .. block[2]
end

-- [epoch, first number, last number, the bytes their bits are in; '': all are counted, …] of runs with known numbers
local function known_numbers(blocks)
    local known = {}
    for _, block in ipairs(blocks) do
        local is_full = redis.call('HGET', 'us:e:' .. block[1], block[2]) == 'full'
        for i = 3, #block, 2 do
            local first, last = block[i], block[i + 1]
            if is_full or redis.call('BITCOUNT', bitmap_of(block), first, last, 'BIT') > 0 then
                local bytes = is_full and ''
                    or redis.call('GETRANGE', bitmap_of(block), math.floor(first / 8), math.floor(last / 8))
                local began = block[2] * BLOCK
                known[#known + 1], known[#known + 2] = block[1], began + first
                known[#known + 1], known[#known + 2] = began + last, bytes
            end
        end
    end
    return known
end

local function known_foreign(ids)
    local known = {}
    for _, id in ipairs(ids) do
        if redis.call('EXISTS', 'us:i:' .. id) == 1 then
            known[#known + 1] = id
        end
    end
    return known
end

-- requests: [key, the key of the slot whose events are near, or the same, [request, …]]
local function known_requests(groups)
    local known = {}
    local function look(key, requests)
        in_slices(requests, SLICE, function(first, ...)
            for j, is_known in ipairs(redis.call('SMISMEMBER', key, ...)) do
                if is_known == 1 then
                    known[#known + 1] = requests[first + j - 1]
                end
            end
        end)
    end
    for _, group in ipairs(groups) do
        look('us:x:' .. group[1], group[3])
        if group[2] ~= group[1] and redis.call('EXISTS', 'us:x:' .. group[2]) == 1 then
            look('us:x:' .. group[2], group[3])
        end
    end
    return known
end

local function set_bits(block)
    local operations = {}
    for i = 3, #block, 2 do
        for first = block[i], block[i + 1], 32 do
            local bits, n = math.min(32, block[i + 1] - first + 1), #operations
            operations[n + 1], operations[n + 2] = 'SET', 'u' .. bits
            operations[n + 3], operations[n + 4] = first, 2 ^ bits - 1
        end
    end
    in_slices(operations, 4 * SLICE, function(_, ...)
        redis.call('BITFIELD', bitmap_of(block), ...)
    end)
end

-- A full block is given up for a word. Returns whether the block is new.
local function take_numbers(block)
    local epoch, number = 'us:e:' .. block[1], block[2]
    set_bits(block)
    if redis.call('BITCOUNT', bitmap_of(block)) == BLOCK then
        redis.call('DEL', bitmap_of(block))
        return redis.call('HSET', epoch, number, 'full') == 1
    end
    return redis.call('HSETNX', epoch, number, 'partial') == 1
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

local function remember_events(blocks, foreign)
    local has_new_block = {}
    for _, block in ipairs(blocks) do
        has_new_block[block[1]] = take_numbers(block) or has_new_block[block[1]] or false
    end
    for epoch, has in pairs(has_new_block) do
        keep_epoch(epoch, has)
    end
    for _, id in ipairs(foreign) do
        redis.call('SET', 'us:i:' .. id, '', 'EX', FOREIGN_ID_KEPT_SECONDS)
    end
end

-- Remember requests for the window, as many as there is room for; returns for how many there was none.
local function remember_requests(groups, now, window_seconds, most)
    local how_many = 0
    for _, group in ipairs(groups) do
        how_many = how_many + #group[3]
    end
    if how_many == 0 then
        return 0
    end
    local period = 'us:x:' .. math.floor(now / window_seconds)
    if redis.call('INCRBY', period, how_many) > most then
        redis.call('DECRBY', period, how_many)
        return how_many
    end
    redis.call('EXPIRE', period, window_seconds)
    for _, group in ipairs(groups) do
        in_slices(group[3], SLICE, function(_, ...)
            redis.call('SADD', 'us:x:' .. group[1], ...)
        end)
        redis.call('EXPIRE', 'us:x:' .. group[1], window_seconds)
    end
    return 0
end
