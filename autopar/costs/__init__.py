"""Physics: one operation (`operations`), and on top of it the float tables of each cost model.

Empty on purpose: `verify` imports `autopar.costs.operations` and must not run the tables.
"""
