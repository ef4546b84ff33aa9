"""One operation each: time of one kernel, one collective, bytes of one part.

Every function takes numbers or arrays that broadcast together, and knows nothing of plans. `verify`
shares these with the cost tables, and nothing else.
"""
