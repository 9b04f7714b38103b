-- What can be called. The version is that of layout.lua's first line.

redis.register_function('shortener_count_v3', count)
redis.register_function('shortener_done_v3', done)
redis.register_function('shortener_sweep_v3', sweep)
redis.register_function { function_name = 'shortener_counted_v3', callback = counted, flags = { 'no-writes' } }
redis.register_function { function_name = 'shortener_top_v3', callback = top, flags = { 'no-writes' } }
redis.register_function { function_name = 'shortener_quarters_v3', callback = quarters, flags = { 'no-writes' } }
