#!lua name=shortener_counting_v3

-- How accesses are counted: one call for each batch, atomic on every node and in every prefix of the replication
-- stream. The version is part of the library's and of each function's name, so that old and new processes live side
-- by side: whoever changes what is written raises it here and in functions.lua. No release wrote what v1 and v2 did, so
-- nothing here reads it.
--
-- All keys begin with `us:` and are made up in here, undeclared: the batch alone tells which they are. That is sound
-- where one server holds them all (a single Redis, or Sentinel's one keyspace); on Redis Cluster it would not be.
--
--   us:top               sorted set   code -> minus its count: the most followed come first, and equal ones by code
--   us:r:<code>          string       msgpack of a Record, see below
--   us:v:<code>:<day>    HyperLogLog  the visitors of an open day, where they are many or the day is not the latest
--   us:q:<code>:<span>   hash         day of the span -> msgpack of {quarter of the day + 1 -> accesses}
--   us:e:<epoch>         hash         block -> full or partial: which blocks of numbers the epoch has used
--   us:b:<epoch>:<block> bitmap       which numbers of a partial block are counted
--   us:i:<event id>      string       a foreign event that was counted within a day
--   us:x:<slot>:<shard>  set          requests that were counted, by the time of their event: a dozen bytes each, made
--                                     of the request's id and the code
--   us:x:<period>        integer      how many were put there in this period of the server's clock, one window long
--   us:progress          hash         epoch -> msgpack of a Course (stats/progress.py), one after another with its hours last
--   us:swept             integer      where `sweep` goes on
--   us:beat              integer      grows with every batch: one of nothing but duplicates must write as well, or
--                                     WAIT after it would have no offset to wait for
--
-- Most of the time of a small command called from here is the calling, and each argument of a large one costs as much
-- as ten lines of Lua. So a batch comes as tallies, made by the caller (stats/redis_batch.py); what is asked or written
-- for many codes is one command; and what changes with every access is one packed string.

local BLOCK = 65536 -- numbers in one bitmap
local EPOCH_KEPT_SECONDS = 14 * 86400
local EPOCH_TOUCHED_EVERY_SECONDS = 3600
local FOREIGN_ID_KEPT_SECONDS = 86400
local OPEN_DAYS = 8 -- events older than 7 days are never sent
local SKETCH_KEPT_SECONDS = 10 * 86400
local QUARTERS = 96 -- of a day
local QUARTER_MICROSECONDS = 900 * 1000000
local SPAN_DAYS = 32 -- a month that needs no calendar
local LARGEST = 2 ^ 48
local MARK_SECONDS = 60
local SLICE = 1000 -- Lua's stack bounds how many arguments one command may have
local VISITOR = 8 -- characters: a comma and seven of a hash
local MOST_MET = 16 * VISITOR -- a longer list is dearer to write with every access than a sketch

-- A Record, by the places of its fields. Behind them each earlier day that is open, and its visitors.
local COUNT, LAST, BOTS, CLOSED, QUARTER, IN_QUARTER, DAY, VISITORS, MET, EARLIER = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
--   LAST            microseconds since 1970
--   CLOSED          visitors of the days that are over
--   QUARTER         the latest in which it was followed, and IN_QUARTER how often: not yet in us:q
--   DAY, VISITORS   the latest day with visitors. MET are they, or '' when they are in us:v

local function in_slices(list, size, use)
    for i = 1, #list, size do
        use(i, unpack(list, i, math.min(i + size - 1, #list)))
    end
end
