"""Prefill and decode on GPUs of their own: two layouts, found together.

Each role is a problem like any other (`autopar.specs.roles`); what ties the two together is the
number of GPUs, the slower of the two rates, and the cache of every prompt that travels from one to
the other. `task` states the pair, `search` leaves out what cannot be optimal, `program` is the
CP-SAT model, `layout` writes the plan out.
"""
